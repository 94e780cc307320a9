//go:build linux

package overlay

import (
	"fmt"

	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// base is the MTU of the link that bears this node's endpoint of a family, 0 if none does.
func (n *Node) base(f peer.Family) int {
	if link, ok := n.under.local[n.o.Node.Endpoint(f).Addr]; ok {
		return n.under.links[link].MTU
	}
	return 0
}

// pathMTU is how long a packet of a pod to the peer may be; 0 is not known.
func (n *Node) pathMTU(p *peer.Peer) int {
	switch {
	case n.o.MTU != 0:
		return n.o.MTU
	case p == n.at:
		return n.atMTU
	}
	least := 0
	for _, a := range n.d.ways(n, p) {
		if !a.IsValid() {
			continue
		}
		f := peer.FamilyOf(a)
		mtu := n.under.to(a).mtu
		if mtu == 0 {
			mtu = n.base(f)
		}
		least = smaller(least, less(mtu, n.d.overhead(f)))
	}
	return least
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
func (n *Node) deviceMTU(f peer.Family) int {
	if n.o.MTU != 0 {
		return n.o.MTU
	}
	return less(max(n.base(f), n.under.widest[b2i(f == peer.IPv6)]), n.d.overhead(f))
}

// mtus settles the MTU for pods and finds devices with another one than wanted.
func (n *Node) mtus(links []rtnl.Link) ([]mtuChange, error) {
	byFamily := map[peer.Family]int{}
	for _, f := range n.families() {
		byFamily[f] = n.deviceMTU(f)
	}
	n.mtu = n.o.MTU
	if n.mtu == 0 {
		for _, f := range n.families() {
			n.mtu = smaller(n.mtu, less(n.base(f), n.d.overhead(f)))
		}
		n.narrowed = n.least != 0 && n.least < n.mtu
		n.mtu = smaller(n.mtu, n.least)
	}
	if n.mtu != 0 && n.mtu < MinMTUv6 && n.o.carries(peer.IPv6) && len(n.o.Node.PodsOf(peer.IPv6)) > 0 {
		return nil, fmt.Errorf("network %q: %d bytes are left for pods, and IPv6 needs %d (RFC 8200): raise the MTU of the underlay, "+
			"choose an encapsulation with less overhead, or leave the IPv6 ranges out", n.o.Network, n.mtu, MinMTUv6)
	}
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
func (n *Node) families() []peer.Family {
	var all []peer.Family
	for _, d := range n.devices {
		all = append(all, d.over)
	}
	if len(all) == 0 {
		return n.o.families()
	}
	return all
}

// narrow is the MTU of a route to a peer over a device: that of the path where the device's is larger, else 0.
func (n *Node) narrow(mtu int, device peer.Family) uint32 {
	if n.o.MTU == 0 && mtu != 0 && mtu < n.widest[device] {
		return uint32(mtu)
	}
	return 0
}
