//go:build linux

package overlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// maxSteps is up to how many changed peers are worth a step; beyond it, a dump costs less.
const maxSteps = 64

// change is one changed peer: at is its place in the list as it was.
type change struct {
	at       int
	old, new *peer.Peer // nil: joined, left
}

// difference compares a list with the last one, without a look at the kernel. It gives up, with false, where too much is
// different or the order is another.
func (n *Node) difference(peers []peer.Peer) ([]change, bool) {
	var steps []change
	i, self := 0, n.o.Node.Name
	for j := 0; j < len(peers); j++ {
		p := &peers[j]
		if p.Name == self {
			continue
		}
		if i < len(n.list) && samePeer(&n.list[i], p) {
			i++
			continue
		}
		if len(steps) >= maxSteps {
			return nil, false
		}
		if i < len(n.list) && n.list[i].Name == p.Name {
			steps = append(steps, change{at: i, old: &n.list[i], new: p})
			i++
			continue
		}
		// Peers left before this one, or this one joined.
		ahead := slices.IndexFunc(n.list[i:min(i+maxSteps, len(n.list))], func(q peer.Peer) bool { return q.Name == p.Name })
		for ; ahead > 0; ahead-- {
			steps = append(steps, change{at: i, old: &n.list[i]})
			i++
		}
		if ahead == 0 {
			j--
			continue
		}
		steps = append(steps, change{at: i, new: p})
	}
	for ; i < len(n.list); i++ {
		if len(steps) >= maxSteps {
			return nil, false
		}
		steps = append(steps, change{at: i, old: &n.list[i]})
	}
	return steps, len(steps) <= maxSteps
}

func samePeer(a, b *peer.Peer) bool {
	return a.Name == b.Name && a.Reach == b.Reach && slices.Equal(a.Pods, b.Pods)
}

// step applies a few changes to what is held in memory and in the kernel. It reports false, and has done nothing, where
// only a full pass can tell what is right.
func (n *Node) step(ctx context.Context, steps []change) (done bool, err error) {
	undo, ok := n.reclaim(steps)
	defer func() {
		if !done || err != nil {
			undo()
		}
	}()
	if !ok {
		return false, nil
	}
	var before, after []plan
	for _, s := range steps {
		for _, p := range [...]*peer.Peer{s.old, s.new} {
			if p == nil {
				continue
			}
			if n.d.peerDevices(n, *p) != nil {
				return false, nil
			}
			var made plan
			if n.d.plan(n, p, &made) != nil || !n.fits(p, p == s.old) {
				return false, nil
			}
			if _, cut := n.path(p); cut != nil {
				return false, nil
			}
			if p == s.old {
				before = append(before, made)
			} else {
				after = append(after, made)
			}
		}
	}
	c, ok := n.replan(before, after)
	if !ok || slices.ContainsFunc(c.delFDB, func(f rtnl.FDB) bool { return f.MAC == inet.MAC{} }) { // with what was learned
		return false, nil
	}
	if free, err := n.free(c.setRoute); err != nil || !free {
		return false, err
	}
	unlock, err := n.lock(ctx)
	if err != nil {
		return true, err
	}
	defer unlock()
	if err := n.apply(ctx, &c); err != nil {
		return true, err
	}
	n.commit(c)
	n.relist(steps)
	return true, nil
}

// fits reports whether a peer that comes or goes leaves the MTU of devices and pods as it is.
func (n *Node) fits(p *peer.Peer, goes bool) bool {
	if n.o.MTU != 0 {
		return true
	}
	mtu := n.pathMTU(p)
	if goes {
		return mtu > n.least || mtu == n.mtu && n.least >= n.mtu && !n.narrowed
	}
	return mtu >= n.mtu && mtu <= max(n.widest[inet.IPv4], n.widest[inet.IPv6])
}

// reclaim makes the claims those of the changed peers; undo takes that back. It reports false if two would overlap.
func (n *Node) reclaim(steps []change) (undo func(), ok bool) {
	var added, removed []claim
	undo = func() {
		for _, c := range added {
			n.claims.remove(c.r)
		}
		for _, c := range removed {
			n.claims.add(c.r, c.owner)
		}
	}
	for _, s := range steps {
		for _, r := range podsOf(s.old) {
			n.claims.remove(r)
			removed = append(removed, claim{r, s.old.Name})
		}
	}
	for _, s := range steps {
		for _, r := range podsOf(s.new) {
			if _, clash := n.claims.at(r); clash != nil {
				return undo, false
			}
			n.claims.add(r, s.new.Name)
			added = append(added, claim{r, s.new.Name})
		}
	}
	return undo, true
}

func podsOf(p *peer.Peer) []netip.Prefix {
	if p == nil {
		return nil
	}
	return p.Pods
}

// replan is the difference that the plans make; false if a new one would overwrite what is another peer's.
func (n *Node) replan(before, after []plan) (c changes, ok bool) {
	var routes edit[netip.Prefix, rtnl.Route]
	var neighs edit[neighKey, rtnl.Neigh]
	var fdbs edit[fdbKey, rtnl.FDB]
	var tunnel edit[peerKey, tunnelPeer]
	for _, p := range before {
		routes.old, neighs.old = append(routes.old, p.routes...), append(neighs.old, p.neighs...)
		fdbs.old, tunnel.old = append(fdbs.old, p.fdbs...), append(tunnel.old, p.tunnel...)
	}
	for _, p := range after {
		routes.new, neighs.new = append(routes.new, p.routes...), append(neighs.new, p.neighs...)
		fdbs.new, tunnel.new = append(fdbs.new, p.fdbs...), append(tunnel.new, p.tunnel...)
	}
	ok = true
	c.setRoute, c.delRoute = routes.apply(n.want.routes, &ok)
	c.setNeigh, c.delNeigh = neighs.apply(n.want.neighs, &ok)
	c.setFDB, c.delFDB = fdbs.apply(n.want.fdbs, &ok)
	c.setTunnel, c.delTunnel = tunnel.apply(n.want.tunnel, &ok)
	c.wasTunnel = make(map[peerKey]tunnelPeer, len(c.setTunnel))
	for _, t := range c.setTunnel {
		if h, there := n.want.tunnel.get(t.key); there {
			c.wasTunnel[t.key] = h
		}
	}
	return c, ok
}

// edit replaces some values of a table by others.
type edit[K, V comparable] struct{ old, new []V }

func (e edit[K, V]) apply(have *table[K, V], ok *bool) (set, remove []V) {
	had, wanted := make(map[K]bool, len(e.old)), make(map[K]bool, len(e.new))
	for _, v := range e.old {
		had[have.key(&v)] = true
	}
	for _, v := range e.new {
		k := have.key(&v)
		h, there := have.get(k)
		if there && !had[k] || wanted[k] {
			*ok = false
		}
		wanted[k] = true
		if !there || h != v {
			set = append(set, v)
		}
	}
	for k := range had {
		if h, there := have.get(k); there && !wanted[k] {
			remove = append(remove, h)
		}
	}
	return set, remove
}

// free reports whether no foreign route stands where a new one is to be.
func (n *Node) free(routes []rtnl.Route) (bool, error) {
	if n.o.Table != mainTable {
		return true, nil
	}
	free := true
	var msgs []*rtnl.Msg
	for _, r := range routes {
		if _, ok := n.want.routes.get(r.Dst); ok {
			continue
		}
		msgs = append(msgs, rtnl.MatchRoute(r.Dst.Addr(), func(h rtnl.Route) {
			if h.Dst == r.Dst && !n.owns(&h) {
				free = false
			}
		}))
	}
	const batch = 64 // whose answers fit into a socket's buffer
	for part := range slices.Chunk(msgs, batch) {
		if err := n.conn.Do(part...); errors.Is(err, errNoBuffers) {
			return false, err
		}
	}
	return free, nil
}

// commit makes what was written the wanted state.
func (n *Node) commit(c changes) {
	n.want.put(&plan{routes: c.setRoute, neighs: c.setNeigh, fdbs: c.setFDB, tunnel: c.setTunnel})
	removeAll(n.want.routes, c.delRoute)
	removeAll(n.want.neighs, c.delNeigh)
	removeAll(n.want.fdbs, c.delFDB)
	removeAll(n.want.tunnel, c.delTunnel)
}

func removeAll[K comparable, V any](t *table[K, V], all []V) {
	for i := range all {
		t.remove(t.key(&all[i]))
	}
}

// relist makes the list the one that was asked for, from the end so that places stay true.
func (n *Node) relist(steps []change) {
	for _, s := range slices.Backward(steps) {
		var p peer.Peer
		if s.new != nil {
			p = *s.new
			p.Pods = slices.Clone(p.Pods)
		}
		switch {
		case s.new == nil:
			n.list = slices.Delete(n.list, s.at, s.at+1)
		case s.old == nil:
			n.list = slices.Insert(n.list, s.at, p)
		default:
			n.list[s.at] = p
		}
	}
}
