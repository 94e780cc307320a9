//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// pass is one comparison of the kernel with what the Node wants. What it reads and finds dies with it.
type pass struct {
	*Node
	links    []rtnl.Link // of the node, after its devices were made
	have     *kernel
	changes  changes
	rejected []error // peers that are left out
}

// spare are the slices of an earlier pass, so that the next one has room for what it reads.
var spare atomic.Pointer[kernel]

func (n *Node) begin() *pass {
	have := spare.Swap(nil)
	if have == nil {
		have = &kernel{}
	}
	return &pass{Node: n, have: have}
}

func (p *pass) end() { spare.Store(p.have) }

// compare settles the devices as asked for, reads the kernel, and finds what differs.
func (p *pass) compare(ctx context.Context, devices func(context.Context, []device) ([]rtnl.Link, error)) error {
	if err := p.open(); err != nil {
		return err
	}
	want, err := p.wantedDevices()
	if err != nil {
		return err
	}
	if p.links, err = devices(ctx, want); p.links != nil {
		p.settle(want, p.links)
	}
	if err != nil {
		return err
	}
	return p.diff(ctx)
}

func (p *pass) wantedDevices() ([]device, error) {
	s := &p.site
	if err := p.ownEnds(); err != nil {
		return nil, err
	}
	want, err := s.d.devices(s)
	if err != nil || !s.perPeer() {
		return want, err
	}
	links, err := p.conn.Links("")
	if err != nil {
		return nil, err
	}
	// In a new process those were there before whose device is.
	s.members.validate(func(q *peer.Peer) bool {
		d := s.d.peerDevices(s, q)
		return len(d) > 0 && indexOf(links, d[0].name) != 0
	})
	for i := range s.members.list {
		if s.members.refused[i] == nil {
			want = append(want, s.d.peerDevices(s, &s.members.list[i])...)
		}
	}
	return want, nil
}

// settle remembers which devices stand. Plans name links by index, so other ones make other plans.
func (p *pass) settle(want []device, links []rtnl.Link) {
	s := &p.site
	now := newLinkSet(s, want, links)
	if !maps.Equal(s.links.index, now.index) {
		s.under = nil
	}
	s.links, p.want.Addrs = now, now.addrs(s.o)
}

// diff reads the kernel and compares.
func (p *pass) diff(ctx context.Context) error {
	s, k := &p.site, p.have
	if err := p.read(ctx); err != nil {
		return err
	}
	ours, foreign := s.sort(k.Routes)
	under, err := p.underlay(p.links, foreign, k.Addrs)
	if err != nil {
		return err
	}
	if !under.sameAs(s.under) {
		s.under = under
		p.plan(ours)
	}
	p.rejected = slices.Clone(p.survey.skipped)
	if p.changes.MTU, err = p.mtus(p.links); err != nil {
		return err
	}
	for _, l := range p.links {
		if _, ok := s.links.stale[l.Index]; ok {
			p.changes.Links = append(p.changes.Links, l)
		}
	}
	p.changes.tunnelDevice = k.tunnelWrong
	judges := p.judges()
	if s.members.list == nil {
		p.changes.Set.Addrs, p.changes.Del.Addrs = p.want.Addrs.Compare(judges.Addrs, k.Addrs)
		return nil
	}
	have := k.Lists
	have.Routes = ours
	found := p.want.Compare(&judges, &have, foreign)
	p.changes.Set, p.changes.Del = found.Set, found.Del
	p.changes.setTunnel, p.changes.delTunnel = p.want.tunnel.Compare(judgeTunnel, k.tunnel)
	if len(p.changes.setTunnel) > 0 {
		p.changes.wasTunnel = make(map[peerKey]tunnelPeer, len(k.tunnel))
		for _, t := range k.tunnel {
			p.changes.wasTunnel[t.key] = t
		}
	}
	return nil
}

// judges tell what of the kernel's is this network's. What stands in the way becomes a rejected peer.
func (p *pass) judges() reconcile.Judges {
	s := &p.site
	name := names(p.links)
	reject := func(owner string, err error) { p.rejected = append(p.rejected, &Refused{owner, err}) }
	conflict := func(what fmt.Stringer, owner string, there string) {
		text := fmt.Sprintf("%s cannot be set: a foreign %s stands in the way; remove it", what, there)
		reject(owner, errors.New(rtnl.WithNames(text, name)))
	}
	return reconcile.Judges{
		Addrs: reconcile.Judge[rtnl.Addr]{
			Ours: func(h *rtnl.Addr) bool {
				own, shared := s.links.own(h.Link)
				return own && h.Proto == Proto && (!shared || len(s.o.Prefixes) > 0 && s.o.holds(h.Prefix))
			},
			Same:     func(h, w *rtnl.Addr) bool { return h.Link == w.Link && h.Prefix == w.Prefix },
			Replaces: func(_, _ *rtnl.Addr) bool { return true },
		},
		Routes: reconcile.Judge[rtnl.Route]{
			Ours:     s.owns,
			Same:     reconcile.SameRoute,
			Replaces: func(h, w *rtnl.Route) bool { return h.Metric == w.Metric },
			Conflict: func(h, w *rtnl.Route) {
				owner := s.members.ownerOf(w.Dst)
				if gw := gatewayOf(h, p.have.Addrs); gw.IsValid() {
					reject(owner, fmt.Errorf("the route to %s cannot be set: %s still has the gateway %s, of a range that was this node's: it goes with the last pod here that has an address of %s",
						w.Dst, name(h.Link), gw, w.Dst))
					return
				}
				conflict(w, owner, fmt.Sprintf("%s (protocol %d)", h, h.Proto))
			},
		},
		Neighs: reconcile.Judge[rtnl.Neigh]{
			Ours:     func(h *rtnl.Neigh) bool { return h.Proto == Proto || s.o.Adopt },
			Same:     reconcile.SameNeigh,
			Replaces: func(_, _ *rtnl.Neigh) bool { return true },
			Conflict: func(h, w *rtnl.Neigh) {
				conflict(w, s.members.ownerOf(netip.PrefixFrom(w.IP, w.IP.BitLen())), h.String())
			},
		},
		FDBs: reconcile.Judge[rtnl.FDB]{
			Ours: func(h *rtnl.FDB) bool {
				// What was learned of a peer goes with it; else frames would go there until it ages.
				return h.Extern || s.o.Adopt || h.Learned && !p.want.FDBs.Has(reconcile.FDBKey{Link: h.Link, Dst: h.Dst})
			},
			Same:     reconcile.SameFDB,
			Replaces: func(h, _ *rtnl.FDB) bool { return h.MAC != (inet.MAC{}) },
			Conflict: func(h, w *rtnl.FDB) { conflict(w, s.members.endOf(w.Dst), h.String()) },
		},
	}
}

// gatewayOf is the address of this library that a route on its link is there for, which the kernel made for it or a plugin did.
func gatewayOf(r *rtnl.Route, addrs []rtnl.Addr) netip.Prefix {
	for _, a := range addrs {
		if a.Link == r.Link && a.Proto == Proto && !r.Via.IsValid() && (a.Prefix.Masked() == r.Dst || r.Src == a.Prefix.Addr()) {
			return a.Prefix
		}
	}
	return netip.Prefix{}
}

func names(links []rtnl.Link) func(int) string {
	return func(i int) string {
		for _, l := range links {
			if l.Index == i {
				return l.Name
			}
		}
		return ""
	}
}

// sort parts the routes of this node from the foreign ones, in place. Ours of another layer, or of nobody's, are left out:
// they do not stand in the way.
func (s *site) sort(all []rtnl.Route) (ours, foreign []rtnl.Route) {
	ours = all[:0]
	for i := range all {
		r := &all[i]
		switch {
		case s.owns(r):
			ours = append(ours, *r)
		case r.Proto != Proto || s.inLayer(r.Metric):
			foreign = append(foreign, *r)
		}
	}
	return ours, foreign
}

// owns reports whether a route is this node's to change.
func (s *site) owns(r *rtnl.Route) bool {
	own, shared := s.links.own(r.Link)
	if r.Proto != Proto || !s.inLayer(r.Metric) {
		return s.o.Adopt && (r.Proto == unix.RTPROT_BOOT || r.Proto == unix.RTPROT_STATIC) && r.Type == unix.RTN_UNICAST &&
			len(s.o.Prefixes) > 0 && s.o.holds(r.Dst) && (own && !shared || s.links.direct(r))
	}
	return own && !shared || (own || s.links.direct(r)) && s.o.holds(r.Dst)
}

// underlay is the network below: the main table, whatever table ours are in, without what is on our own devices.
func (p *pass) underlay(links []rtnl.Link, routes []rtnl.Route, addrs []rtnl.Addr) (*underlay, error) {
	if p.site.o.Table != mainTable {
		all, err := p.conn.Routes(rtnl.RouteFilter{Table: mainTable})
		if err != nil {
			return nil, err
		}
		routes = all
	}
	routes = slices.DeleteFunc(slices.Clone(routes), func(r rtnl.Route) bool { return r.Proto == Proto || p.site.links.has(r.Link) })
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a rtnl.Addr) bool { return p.site.links.has(a.Link) })
	return newUnderlay(p.conn, links, routes, addrs)
}

// linkSet are the links of a network.
type linkSet struct {
	wanted []device
	index  map[string]int   // of the wanted ones that stand
	stale  map[int]struct{} // of this network, and not wanted
	others map[int]struct{} // overlay devices of others: networks, or a second node of this one
}

// newLinkSet sorts the links of the node. Left over from another configuration, or from peers that left, are only those with
// names of our own making: who states a name rules over it. Without a list none is, since there may be devices for single peers.
func newLinkSet(s *site, want []device, links []rtnl.Link) linkSet {
	l := linkSet{want, make(map[string]int, len(want)), map[int]struct{}{}, map[int]struct{}{}}
	for _, h := range links {
		who := marked(h)
		switch {
		case slices.ContainsFunc(want, func(d device) bool { return d.name == h.Name }):
			l.index[h.Name] = h.Index
		case len(who) == 0:
		case s.members.list != nil && s.o.Device == "" && s.d.layer() == 1 && len(who) == 1 && s.o.isMine(who[0]) && strings.HasPrefix(h.Name, "cb-"):
			l.stale[h.Index] = struct{}{}
		default:
			l.others[h.Index] = struct{}{}
		}
	}
	return l
}

// own reports whether a link is this network's alone or one that it shares, and which of both.
func (l *linkSet) own(index int) (own, shared bool) {
	if _, ok := l.stale[index]; ok {
		return true, false
	}
	for i := range l.wanted {
		if l.index[l.wanted[i].name] == index {
			return true, l.wanted[i].shared
		}
	}
	return false, false
}

func (l *linkSet) has(index int) bool {
	own, _ := l.own(index)
	return own
}

// direct reports whether a route may be one past the tunnels, over a link that is no overlay's.
func (l *linkSet) direct(r *rtnl.Route) bool {
	_, foreign := l.others[r.Link]
	return r.Via.IsValid() && !foreign
}

// addrs are those of the node that its devices are to have.
func (l *linkSet) addrs(o *Options) *reconcile.Table[reconcile.AddrKey, rtnl.Addr] {
	want := reconcile.NewObjects(0).Addrs
	for _, d := range l.wanted {
		index, ok := l.index[d.name]
		if !ok || d.bare {
			continue
		}
		for _, a := range o.Node.NodeAddrs() {
			if f := inet.FamilyOf(a); o.carries(f) && (d.inner == 0 || d.inner == f) {
				w := rtnl.Addr{Link: index, Prefix: netip.PrefixFrom(a, a.BitLen()), Proto: Proto}
				if f == inet.IPv6 {
					w.Flags = unix.IFA_F_NODAD
				}
				want.Put(&w)
			}
		}
	}
	return want
}
