//go:build linux

package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// survey is what the plans of a list found: over which paths, and for whom there are none.
type survey struct {
	skipped []error // why peers are not in the plan
	least   int     // MTU of the narrowest path
	reached int     // peers that there is a way to
	cut     error   // the first that there is none to; nil: there is to all
}

// way is the path to a peer of the list, which is counted.
func (v *survey) way(s *site, p *peer.Peer) (mtu int, cut error) {
	if mtu, cut = s.path(p); cut == nil {
		v.reached++
	} else if v.cut == nil {
		v.cut = &Refused{p.Name, cut}
	}
	return mtu, cut
}

// cutOff says that no peer can be reached now.
func (v *survey) cutOff(network string) error {
	if v.cut == nil || v.reached > 0 {
		return nil
	}
	return fmt.Errorf("no peer of network %q can be reached: %w", network, v.cut)
}

// plan makes the wanted state of the list. have are this node's routes in the kernel, which tell in a new process who was
// there before.
func (p *pass) plan(have []rtnl.Route) {
	s := &p.site
	s.look()
	p.survey = survey{}
	addrs := p.want.Addrs
	p.want = newObjects(len(s.members.list))
	p.want.Addrs = addrs
	if !s.perPeer() {
		s.members.validate(func(q *peer.Peer) bool { return p.incumbent(q, have) })
	}
	var made plan
	for i := range s.members.list {
		q := &s.members.list[i]
		made.clear()
		err := s.members.refused[i]
		if err == nil {
			err = p.survey.add(s, q, &made)
		}
		if clash := p.want.clash(&made); clash != nil {
			made.clear()
			err = clash
		}
		if err != nil {
			p.survey.skipped = append(p.survey.skipped, &Refused{q.Name, err})
		}
		p.want.put(&made)
	}
}

// clash finds what would overwrite another peer's.
func (o objects) clash(p *plan) error {
	for i := range p.FDBs {
		if h, ok := o.FDBs.Get(o.FDBs.Key(&p.FDBs[i])); ok {
			return fmt.Errorf("its MAC %s is also that of the peer at %s: give every tunnel device a MAC of its own, or state none", h.MAC, h.Dst)
		}
	}
	for _, t := range p.tunnel {
		if h, ok := o.tunnel.Get(t.key); ok {
			return fmt.Errorf("its public key %s is also that of the peer at %s: make a key on every node; a copied machine keeps its original's", h.key, h.end)
		}
	}
	return nil
}

// add is a peer's part of the wanted state.
func (v *survey) add(s *site, p *peer.Peer, to *plan) (err error) {
	var cut error
	to.mtu, cut = v.way(s, p)
	if to.mtu != 0 && to.mtu < MinMTUv6 && slices.ContainsFunc(s.pods(p), func(r netip.Prefix) bool { return r.Addr().Is6() }) {
		return fmt.Errorf("%d bytes are left for pods on the way to it, and IPv6 needs %d (RFC 8200): raise the MTU of the underlay, or leave its IPv6 ranges out", to.mtu, MinMTUv6)
	}
	err = s.d.plan(s, p, to)
	if len(to.Routes)+len(to.FDBs)+len(to.tunnel) > 0 || err == nil {
		v.least = smaller(v.least, to.mtu)
	}
	if err == nil {
		err = cut // its entries stay, for when there is a way again
	}
	return err
}

// look finds all paths and widths anew, in batches where the kernel must be asked.
func (s *site) look() {
	list := s.members.list
	to := make([]netip.Addr, 0, len(list))
	for i := range list {
		for _, a := range s.d.ways(s, &list[i]) {
			if a.IsValid() {
				to = append(to, a)
			}
		}
	}
	s.under.prepare(to)
	for i, f := range inet.Families {
		s.widest[i] = s.deviceMTU(f)
	}
}

// incumbent reports whether the kernel shows that a peer was there before.
func (p *pass) incumbent(q *peer.Peer, have []rtnl.Route) bool {
	var made plan
	made.mtu, _ = p.site.path(q)
	if p.site.d.plan(&p.site, q, &made) != nil {
		return false
	}
	for _, t := range made.tunnel {
		return slices.ContainsFunc(p.have.tunnel, func(h tunnelPeer) bool { return h.key == t.key && h.allowed == t.allowed })
	}
	return slices.ContainsFunc(made.Routes, func(r rtnl.Route) bool { return slices.Contains(have, r) })
}
