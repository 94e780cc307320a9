// Package peer is the data of a pod network that spans machines: which nodes there are, which ranges of pod addresses
// each has, and how its tunnels are reached.
//
// A [Network] is the whole of it. It is read from a peers document ([Parse]), written as one ([Format]) and judged
// ([Network.Validate], [Network.Sift]); [Self] finds the peer that this machine is. A [Source] tells who the peers are,
// a [Registrar] makes this node one of them.
//
// Everything here is pure data: nothing touches the kernel, the disk or the network. What an encapsulation demands of
// its peers (a MAC, a key, an endpoint of the family of the pods) is its own business and not checked here.
package peer

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
)

// Peer is one node as the others see it. In its Pods the order of the ranges counts: the first one of a family holds the
// node's own address ([NodeAddr]).
type Peer struct {
	Name string         // what the node is called, unique in a list
	Pods []netip.Prefix // whose addresses its pods have, of either family
	Reach
}

// Reach is how a node is reached: what it publishes beside its ranges, and what others must know of it to carry packets
// there. It is comparable. The zero value says that nothing is known.
type Reach struct {
	Encap  string // the encapsulation that the node speaks, "vxlan" for one; "" is not known, or whatever the reader uses
	V4, V6 Endpoint
}

// Endpoint is a node's end of a tunnel on the underlay of one family. A zero field was not published: the reader derives
// it or takes its own default.
type Endpoint struct {
	Addr      netip.Addr // of the underlay
	MAC       inet.MAC   // of the tunnel device, where the encapsulation has an inner Ethernet
	PublicKey PublicKey  // WireGuard's
	Port      uint16     // UDP
	VNI       uint32     // 24 bits
}

// Endpoint is the node's end on the underlay of a family, the zero value if there is none.
func (r Reach) Endpoint(f inet.Family) Endpoint {
	switch f {
	case inet.IPv4:
		return r.V4
	case inet.IPv6:
		return r.V6
	}
	return Endpoint{}
}

func (r *Reach) endpoint(f inet.Family) *Endpoint {
	if f == inet.IPv4 {
		return &r.V4
	}
	return &r.V6
}

// PodsOf are the peer's ranges of one family, in their order.
func (p Peer) PodsOf(f inet.Family) []netip.Prefix {
	var of []netip.Prefix
	for _, r := range p.Pods {
		if inet.FamilyOf(r.Addr()) == f {
			of = append(of, r)
		}
	}
	return of
}

// Equal reports whether both say the same of the same node.
func (p Peer) Equal(q Peer) bool {
	return p.Name == q.Name && p.Reach == q.Reach && slices.Equal(p.Pods, q.Pods)
}

// Key is a peer as one comparable value, for sets and maps: two peers have the same Key if and only if they are
// [Peer.Equal].
type Key struct {
	Reach
	name, pods string
}

// Key makes the comparable value of a peer. It costs one allocation.
func (p Peer) Key() Key {
	b := make([]byte, 0, 20*len(p.Pods))
	for _, r := range p.Pods {
		n := len(b)
		b = append(b, 0)
		b, _ = r.AppendBinary(b) // has no error to return
		b[n] = byte(len(b) - n - 1)
	}
	return Key{Reach: p.Reach, name: p.Name, pods: string(b)}
}

// Digest is a hash of a list: the SHA-256 of its peers as they stand in a document, a line for each, sorted. It is the
// same in every process and on every machine, and does not depend on the order of the peers.
func Digest(peers []Peer) [sha256.Size]byte {
	lines := make([][]byte, len(peers))
	for i, p := range peers {
		lines[i] = appendPeer(nil, p)
	}
	slices.SortFunc(lines, slices.Compare)
	h := sha256.New()
	for _, l := range lines {
		h.Write(append(l, '\n'))
	}
	return [sha256.Size]byte(h.Sum(nil))
}
