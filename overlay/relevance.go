//go:build linux

package overlay

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// Announcement is something that the kernel announced, as the monitor of this library has it, which the agent listens to.
type Announcement interface{ String() string }

// Relevant reports whether what the kernel announced makes it differ from what the last list asks for, or changes the
// underlay, so that a Repair is due. It compares with what is held in memory and asks the kernel nothing. What this node
// itself wrote is never relevant, nor are pods that come and go.
func (n *Node) Relevant(a Announcement) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := a.(*rtnl.Event)
	if !ok {
		return true
	}
	s, r := &n.site, relevance{n, &n.site}
	switch e.Subject {
	case rtnl.LinkEvent:
		return r.link(&e.Link, e.Gone)
	case rtnl.AddrEvent:
		return r.addr(&e.Addr, e.Gone)
	case rtnl.RouteEvent:
		return r.route(&e.Route, e.Gone)
	case rtnl.NeighEvent:
		return entry(n.want.Neighs, &e.Neigh, e.Gone, s.links.has(e.Neigh.Link) && e.Neigh.Proto == Proto, reconcile.SameNeigh)
	case rtnl.FDBEvent:
		return s.links.has(e.FDB.Link) && !e.FDB.Learned && entry(n.want.FDBs, &e.FDB, e.Gone, e.FDB.Extern, reconcile.SameFDB)
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
	t, ok := n.site.d.(tunneler)
	if !ok || !n.applied {
		return nil
	}
	peers, right, err := t.readTunnel(context.Background(), &n.site)
	if err != nil {
		return err
	}
	anywhere := judgeTunnel
	anywhere.Same = func(h, w *tunnelPeer) bool {
		return h.key == w.key && h.keepalive == w.keepalive && h.allowed == w.allowed
	}
	c := changes{tunnelDevice: !right}
	c.setTunnel, c.delTunnel = n.want.tunnel.Compare(anywhere, peers)
	return errors.Join(c.words(nil)...)
}

// Owns reports whether a link is one of this node's devices.
func (n *Node) Owns(link int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.site.links.has(link)
}

// Links are the indices of this node's devices that stand.
func (n *Node) Links() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.site.links.index))
}

// relevance answers for one announcement.
type relevance struct {
	n *Node
	*site
}

// unknown reports whether nothing can be said of the underlay: the last pass failed or none was.
func (r *relevance) unknown() bool { return r.under == nil || r.n.amiss }

func (r *relevance) link(l *rtnl.Link, gone bool) bool {
	if r.links.has(l.Index) {
		return gone || !r.asLeft(l)
	}
	for _, d := range r.links.wanted {
		if l.Name == d.name || d.bridge != "" && l.Name == d.bridge {
			return true
		}
	}
	if r.under == nil {
		return r.n.amiss && l.Kind != "veth" && l.Tunnel() == nil
	}
	was, used := r.under.links[l.Index]
	return used && (gone || was.Flags != l.Flags&alive || was.MTU != l.MTU || was.Name != l.Name)
}

// asLeft reports whether a device is what the last pass made of it. The kernel tells of other changes too, such as that of
// its operational state.
func (r *relevance) asLeft(l *rtnl.Link) bool {
	for _, d := range r.links.wanted {
		if d.name != l.Name {
			continue
		}
		mtu := 0
		if r.under != nil {
			mtu = r.deviceMTU(d.over)
		}
		_, differs := r.o.mend(*l, device{name: d.name, mac: d.mac}, nil)
		return !differs && d.bridge == "" && (mtu <= 0 || l.MTU == mtu) && (l.Data == "" || l.Tunnel() == d.tunnel)
	}
	return false
}

func (r *relevance) addr(a *rtnl.Addr, gone bool) bool {
	ip := a.Prefix.Addr()
	if r.links.has(a.Link) {
		wanted := r.n.want.Addrs.Has(reconcile.AddrKey{Link: a.Link, Prefix: a.Prefix})
		return gone && wanted || !gone && !wanted && a.Proto == Proto
	}
	if r.elsewhere(a.Link, netip.PrefixFrom(ip, ip.BitLen())) {
		return false
	}
	if r.unknown() {
		return r.n.amiss
	}
	link, known := r.under.local[ip]
	return gone && known || !gone && (!known || link != a.Link)
}

// elsewhere reports whether what is on a link, of a range, is no part of the underlay: another overlay's, or of pods.
func (r *relevance) elsewhere(link int, of netip.Prefix) bool {
	_, other := r.links.others[link]
	ip := of.Addr()
	return other || ip.IsLinkLocalUnicast() || ip.IsMulticast() || len(r.o.Prefixes) > 0 && r.o.holds(of)
}

func (r *relevance) route(e *rtnl.Route, gone bool) bool {
	if e.Table == r.o.Table {
		if w, wanted := r.n.want.Routes.Get(e.Dst); wanted {
			same := reconcile.SameRoute(e, &w)
			return gone && (same || len(r.n.refused) > 0) || !gone && !same
		}
		if r.owns(e) {
			return !gone
		}
	}
	if e.Table != mainTable || e.Proto == Proto || r.links.has(e.Link) || r.elsewhere(e.Link, e.Dst) {
		return false
	}
	if r.unknown() {
		return r.n.amiss
	}
	was, known := r.under.byDst[e.Dst]
	return gone && known && was == *e || !gone && (!known || was != *e)
}

// entry is for what a table of the kernel holds by key: neighbours and FDB entries.
func entry[K, V comparable](want *reconcile.Table[K, V], e *V, gone, ours bool, same func(have, want *V) bool) bool {
	w, wanted := want.Get(want.Key(e))
	if !wanted {
		return ours && !gone
	}
	return gone || !same(e, &w)
}
