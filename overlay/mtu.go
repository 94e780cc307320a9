//go:build linux

package overlay

import (
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// minMTU is what every IPv4 link carries (RFC 791), in bytes.
const minMTU = 68

// base is the MTU of the link that bears this node's endpoint of a family, else of that with the default route, 0 if there is
// none either.
func (n *Node) base(f inet.Family) int {
	own := n.o.Node.Endpoint(f).Addr
	link, ok := n.under.local[own]
	if !ok && own.IsValid() {
		link = n.under.byDst[netip.PrefixFrom(anywhere[b2i(own.Is6())], 0)].Link
	}
	return n.under.links[link].MTU
}

var anywhere = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

// pathMTU is how long a packet of a pod to the peer may be; 0 is not known.
func (n *Node) pathMTU(p *peer.Peer) int {
	switch {
	case n.o.MTU != 0:
		return n.o.MTU
	case p == n.at:
		return n.atMTU
	}
	mtu, _ := n.path(p)
	return mtu
}

// path is the MTU for pods on the way to a peer, 0 if it is not known, and why there is no way over any family.
func (n *Node) path(p *peer.Peer) (mtu int, cut error) {
	reached := false
	for _, a := range n.d.ways(n, p) {
		if !a.IsValid() {
			continue
		}
		f := inet.FamilyOf(a)
		way := n.under.to(a)
		if way.err == nil || way.own {
			reached = true
		} else if cut == nil {
			cut = way.err
		}
		if way.mtu == 0 {
			way.mtu = n.base(f)
		}
		mtu = smaller(mtu, less(way.mtu, n.d.overhead(f)))
	}
	if reached {
		cut = nil
	}
	if n.o.MTU != 0 {
		mtu = n.o.MTU
	}
	return mtu, cut
}

// way is path to a peer of the list, which is counted.
func (n *Node) way(p *peer.Peer) (mtu int, cut error) {
	if mtu, cut = n.path(p); cut == nil {
		n.reached++
	} else if n.cut == nil {
		n.cut = &Refused{p.Name, cut}
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

// deviceMTU is that of a device over a family: of the widest path, so that routes may narrow it.
func (n *Node) deviceMTU(f inet.Family) int {
	if n.o.MTU != 0 {
		return n.o.MTU
	}
	return less(max(n.base(f), n.under.widest[b2i(f == inet.IPv6)]), n.d.overhead(f))
}

// mtus settles the MTU for pods and finds devices with another one than wanted.
func (n *Node) mtus(links []rtnl.Link) ([]mtuChange, error) {
	byFamily := map[inet.Family]int{}
	for _, f := range n.families() {
		byFamily[f] = n.deviceMTU(f)
	}
	mtu := n.o.MTU
	if mtu == 0 {
		for _, f := range n.families() {
			mtu = smaller(mtu, less(n.base(f), n.d.overhead(f)))
		}
		n.narrowed = n.least != 0 && n.least < mtu
		mtu = smaller(mtu, n.least)
	}
	const remedy = "raise the MTU of the underlay, choose an encapsulation with less overhead"
	switch {
	case mtu == 0 && n.list != nil:
		return nil, fmt.Errorf("network %q: there is no way out of this node: none of its links has its endpoint (%s), and there is no default route",
			n.o.Network, endpoints(&n.o.Node, n.o.Underlay))
	case mtu != 0 && mtu < minMTU:
		return nil, fmt.Errorf("network %q: %d bytes are left for pods, and IPv4 needs %d (RFC 791): %s", n.o.Network, mtu, minMTU, remedy)
	case mtu != 0 && mtu < MinMTUv6 && n.o.carries(inet.IPv6) && len(n.o.Node.PodsOf(inet.IPv6)) > 0:
		return nil, fmt.Errorf("network %q: %d bytes are left for pods, and IPv6 needs %d (RFC 8200): %s, or leave the IPv6 ranges out",
			n.o.Network, mtu, MinMTUv6, remedy)
	}
	n.mtu = mtu
	var all []mtuChange
	for _, d := range n.devices {
		for _, l := range links {
			if want := byFamily[d.over]; l.Name == d.name && want > 0 && l.MTU != want {
				all = append(all, mtuChange{l, want})
			}
		}
	}
	return all, nil
}

// families are those of the underlay that this node uses.
func (n *Node) families() []inet.Family {
	var all []inet.Family
	for _, d := range n.devices {
		all = append(all, d.over)
	}
	if len(all) == 0 {
		return n.o.families()
	}
	return all
}

// narrow is the MTU of a route to a peer over a device: that of the path where the device's is larger, else 0.
func (n *Node) narrow(mtu int, device inet.Family) uint32 {
	if n.o.MTU == 0 && mtu != 0 && mtu < n.widest[device] {
		return uint32(mtu)
	}
	return 0
}
