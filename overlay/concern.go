//go:build linux

package overlay

import (
	"context"
	"errors"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// Concerns reports whether what the kernel announced makes it differ from what the last list asks for, or changes the
// underlay, so that a Repair is due. It compares with what is held in memory and asks the kernel nothing. What this node
// itself wrote never concerns it, nor do pods that come and go.
func (n *Node) Concerns(e *rtnl.Event) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch e.Subject {
	case rtnl.LinkEvent:
		return n.linkConcerns(&e.Link, e.Gone)
	case rtnl.AddrEvent:
		return n.addrConcerns(&e.Addr, e.Gone)
	case rtnl.RouteEvent:
		return n.routeConcerns(&e.Route, e.Gone)
	case rtnl.NeighEvent:
		return entryConcerns(n.want.neighs, &e.Neigh, e.Gone, n.onDevice(e.Neigh.Link) && e.Neigh.Proto == Proto, sameNeigh)
	case rtnl.FDBEvent:
		return n.onDevice(e.FDB.Link) && !e.FDB.Learned && entryConcerns(n.want.fdbs, &e.FDB, e.Gone, e.FDB.Extern, sameFDB)
	case rtnl.ConfEvent:
		return false // no part of the list
	}
	return true
}

// Unheard says how the kernel differs from the last list in what it announces to nobody: the key, the port and the peers of
// WireGuard. Their endpoints are left out, since they follow a peer that moves.
func (n *Node) Unheard() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, ok := n.d.(tunneler)
	if !ok || !n.applied {
		return nil
	}
	peers, right, err := t.readTunnel(context.Background(), n)
	if err != nil {
		return err
	}
	anywhere := judgeTunnel
	anywhere.same = func(h, w *tunnelPeer) bool {
		return h.key == w.key && h.keepalive == w.keepalive && h.allowed == w.allowed
	}
	c := changes{tunnelDevice: !right}
	c.setTunnel, c.delTunnel = n.want.tunnel.compare(anywhere, peers)
	return errors.Join(c.words(names(nil))...)
}

// Owns reports whether a link is one of this node's devices.
func (n *Node) Owns(link int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.onDevice(link)
}

// Links are the indices of this node's devices that stand.
func (n *Node) Links() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []int
	for _, i := range n.links {
		all = append(all, i)
	}
	return all
}

func (n *Node) onDevice(link int) bool {
	own, _ := n.ownLink(link)
	return own
}

func (n *Node) linkConcerns(l *rtnl.Link, gone bool) bool {
	if n.onDevice(l.Index) {
		return gone || !n.asLeft(l)
	}
	for _, d := range n.devices {
		if l.Name == d.name || d.bridge != "" && l.Name == d.bridge {
			return true
		}
	}
	if n.under == nil {
		return n.amiss && l.Kind != "veth" && l.Tunnel() == nil
	}
	was, used := n.under.links[l.Index]
	return used && (gone || was.Flags != l.Flags&alive || was.MTU != l.MTU || was.Name != l.Name)
}

// asLeft reports whether a device is what the last pass made of it. The kernel tells of other changes too, such as that of
// its operational state.
func (n *Node) asLeft(l *rtnl.Link) bool {
	for _, d := range n.devices {
		if d.name != l.Name {
			continue
		}
		mtu := n.deviceMTUNow(d.over)
		_, differs := n.mend(*l, device{name: d.name, mac: d.mac}, nil)
		return !differs && d.bridge == "" && (mtu <= 0 || l.MTU == mtu) && (l.Data == "" || l.Tunnel() == d.tunnel)
	}
	return false
}

func (n *Node) deviceMTUNow(f inet.Family) int {
	if n.under == nil {
		return 0
	}
	return n.deviceMTU(f)
}

func (n *Node) addrConcerns(a *rtnl.Addr, gone bool) bool {
	ip := a.Prefix.Addr()
	if n.onDevice(a.Link) {
		wanted := n.wantedAddrs()[rtnl.Addr{Link: a.Link, Prefix: a.Prefix}]
		return gone && wanted || !gone && !wanted && a.Proto == Proto
	}
	if _, other := n.others[a.Link]; other {
		return false
	}
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || n.ofPods(netip.PrefixFrom(ip, ip.BitLen())) {
		return false
	}
	if n.under == nil || n.amiss {
		return n.amiss
	}
	link, known := n.under.local[ip]
	return gone && known || !gone && (!known || link != a.Link)
}

// ofPods reports whether a range lies in the pods' network, as far as that is known.
func (n *Node) ofPods(r netip.Prefix) bool { return len(n.o.Prefixes) > 0 && n.o.holds(r) }

func (n *Node) routeConcerns(r *rtnl.Route, gone bool) bool {
	if r.Table == n.o.Table {
		if w, wanted := n.want.routes.get(r.Dst); wanted {
			return gone && (sameRoute(r, &w) || len(n.refused) > 0) || !gone && !sameRoute(r, &w)
		}
		if n.owns(r) {
			return !gone
		}
	}
	dst := r.Dst.Addr()
	if _, other := n.others[r.Link]; other || n.onDevice(r.Link) {
		return false
	}
	if r.Table != mainTable || r.Proto == Proto || dst.IsLinkLocalUnicast() || dst.IsMulticast() || n.ofPods(r.Dst) {
		return false
	}
	if n.under == nil || n.amiss {
		return n.amiss
	}
	was, known := n.under.byDst[r.Dst]
	return gone && known && was == *r || !gone && (!known || was != *r)
}

// entryConcerns is for what a table of the kernel holds by key: neighbours and FDB entries.
func entryConcerns[K comparable, V any](want *table[K, V], e *V, gone, ours bool, same func(have, want *V) bool) bool {
	w, wanted := want.get(want.key(e))
	if !wanted {
		return ours && !gone
	}
	return gone || !same(e, &w)
}
