//go:build linux

package overlay

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// step applies a few changes to what is held in memory and in the kernel. It reports false, and has done nothing, where
// only a full pass can tell what is right.
func (n *Node) step(ctx context.Context, steps []change) (done bool, err error) {
	site := &n.site
	undo, ok := site.members.reclaim(steps)
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
			if site.d.peerDevices(site, p) != nil {
				return false, nil
			}
			var made plan
			var cut error
			made.mtu, cut = site.path(p)
			if site.d.plan(site, p, &made) != nil || cut != nil || !n.fits(made.mtu, p == s.old) {
				return false, nil
			}
			if p == s.old {
				before = append(before, made)
			} else {
				after = append(after, made)
			}
		}
	}
	c, ok := n.want.replan(before, after)
	if !ok || slices.ContainsFunc(c.Del.FDBs, func(f rtnl.FDB) bool { return f.MAC == inet.MAC{} }) { // with what was learned
		return false, nil
	}
	if free, err := n.free(c.Set.Routes); err != nil || !free {
		return false, err
	}
	unlock, err := n.state.lock(ctx)
	if err != nil {
		return true, err
	}
	defer unlock()
	if err := n.apply(ctx, &c); err != nil {
		return true, err
	}
	n.want.commit(&c)
	site.members.relist(steps)
	return true, nil
}

// fits reports whether a peer behind a path of that MTU that comes or goes leaves the MTU of devices and pods as it is.
func (n *Node) fits(mtu int, goes bool) bool {
	w, least := n.widths, n.survey.least
	switch {
	case n.site.o.MTU != 0:
		return true
	case goes:
		return mtu > least || mtu == w.mtu && least >= w.mtu && !w.narrowed
	}
	return mtu >= w.mtu && mtu <= max(n.site.widest[0], n.site.widest[1])
}

// replan is the difference that the plans make; false if a new one would overwrite what is another peer's.
func (o objects) replan(before, after []plan) (c changes, ok bool) {
	var old, wanted plan
	for to, all := range map[*plan][]plan{&old: before, &wanted: after} {
		for _, p := range all {
			to.Add(&p.Lists)
			to.tunnel = append(to.tunnel, p.tunnel...)
		}
	}
	var free bool
	c.Changes, ok = o.Replace(&old.Lists, &wanted.Lists)
	c.setTunnel, c.delTunnel, free = o.tunnel.Replace(old.tunnel, wanted.tunnel)
	c.wasTunnel = make(map[peerKey]tunnelPeer, len(c.setTunnel))
	for _, t := range c.setTunnel {
		if h, there := o.tunnel.Get(t.key); there {
			c.wasTunnel[t.key] = h
		}
	}
	return c, ok && free
}

// free reports whether no foreign route stands where a new one is to be.
func (n *Node) free(routes []rtnl.Route) (bool, error) {
	if n.site.o.Table != mainTable {
		return true, nil
	}
	free := true
	var msgs []*rtnl.Msg
	for _, r := range routes {
		if _, ok := n.want.Routes.Get(r.Dst); ok {
			continue
		}
		msgs = append(msgs, rtnl.MatchRoute(r.Dst.Addr(), func(h rtnl.Route) {
			if h.Dst == r.Dst && !n.site.owns(&h) {
				free = false
			}
		}))
	}
	const batch = 64 // whose answers fit into a socket's buffer
	for part := range slices.Chunk(msgs, batch) {
		if err := n.conn.Do(part...); errors.Is(err, unix.ENOBUFS) {
			return false, err
		}
	}
	return free, nil
}

// commit makes what was written the wanted state.
func (o objects) commit(c *changes) {
	o.Commit(&c.Changes)
	o.tunnel.PutAll(c.setTunnel)
	for _, t := range c.delTunnel {
		o.tunnel.Remove(t.key)
	}
}
