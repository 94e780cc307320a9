//go:build linux

package overlay

import (
	"fmt"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// minMTU is what every IPv4 link carries (RFC 791), in bytes.
const minMTU = 68

// path is the MTU for pods on the way to a peer, 0 if it is not known, and why there is no way over any family.
func (s *site) path(p *peer.Peer) (mtu int, cut error) {
	reached := false
	for _, a := range s.d.ways(s, p) {
		if !a.IsValid() {
			continue
		}
		f := inet.FamilyOf(a)
		way := s.under.to(a)
		if way.err == nil || way.own {
			reached = true
		} else if cut == nil {
			cut = way.err
		}
		if way.mtu == 0 {
			way.mtu = s.base(f)
		}
		mtu = smaller(mtu, less(way.mtu, s.d.overhead(f)))
	}
	if reached {
		cut = nil
	}
	if s.o.MTU != 0 {
		mtu = s.o.MTU
	}
	return mtu, cut
}

// smaller is the lesser of two, of which 0 is not known.
func smaller(a, b int) int {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func less(mtu, overhead int) int {
	if mtu == 0 {
		return 0
	}
	return mtu - overhead
}

func (s *site) base(f inet.Family) int { return s.under.base(s.o.Node.Endpoint(f).Addr) }

// deviceMTU is that of a device over a family: of the widest path, so that routes may narrow it.
func (s *site) deviceMTU(f inet.Family) int {
	if s.o.MTU != 0 {
		return s.o.MTU
	}
	return less(max(s.base(f), s.under.widest[b2i(f == inet.IPv6)]), s.d.overhead(f))
}

// mtus settles the MTU for pods and finds devices with another one than wanted.
func (p *pass) mtus(links []rtnl.Link) ([]reconcile.MTU, error) {
	s := &p.site
	var perFamily [2]int
	mtu := s.o.MTU
	for _, f := range s.families() {
		perFamily[b2i(f == inet.IPv6)] = s.deviceMTU(f)
		if s.o.MTU == 0 {
			mtu = smaller(mtu, less(s.base(f), s.d.overhead(f)))
		}
	}
	if s.o.MTU == 0 {
		p.widths.narrowed = p.survey.least != 0 && p.survey.least < mtu
		mtu = smaller(mtu, p.survey.least)
	}
	const remedy = "raise the MTU of the underlay, choose an encapsulation with less overhead"
	switch {
	case mtu == 0 && s.members.list != nil:
		return nil, fmt.Errorf("network %q: there is no way out of this node: none of its links has its endpoint (%s), and there is no default route",
			s.o.Network, endpoints(&s.o.Node, s.o.Underlay))
	case mtu != 0 && mtu < minMTU:
		return nil, fmt.Errorf("network %q: %d bytes are left for pods, and IPv4 needs %d (RFC 791): %s", s.o.Network, mtu, minMTU, remedy)
	case mtu != 0 && mtu < MinMTUv6 && s.o.carries(inet.IPv6) && len(s.o.Node.PodsOf(inet.IPv6)) > 0:
		return nil, fmt.Errorf("network %q: %d bytes are left for pods, and IPv6 needs %d (RFC 8200): %s, or leave the IPv6 ranges out",
			s.o.Network, mtu, MinMTUv6, remedy)
	}
	p.widths.mtu = mtu
	var all []reconcile.MTU
	for _, d := range s.links.wanted {
		for _, l := range links {
			if want := perFamily[b2i(d.over == inet.IPv6)]; l.Name == d.name && want > 0 && l.MTU != want {
				all = append(all, reconcile.MTU{Link: l, Bytes: want})
			}
		}
	}
	return all, nil
}

// families are those of the underlay that this node uses.
func (s *site) families() []inet.Family {
	var all []inet.Family
	for _, d := range s.links.wanted {
		all = append(all, d.over)
	}
	if len(all) == 0 {
		return s.o.families()
	}
	return all
}

// narrow is the MTU of a route to a peer over a device: that of the path where the device's is larger, else 0.
func (s *site) narrow(mtu int, device inet.Family) uint32 {
	if s.o.MTU == 0 && mtu != 0 && mtu < s.widest[b2i(device == inet.IPv6)] {
		return uint32(mtu)
	}
	return 0
}
