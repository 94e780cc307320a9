package peer

import (
	"crypto/sha256"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
)

// MaxVNI is the largest tunnel id that VXLAN (RFC 7348) and Geneve (RFC 8926) carry.
const MaxVNI = 1<<24 - 1

// DeriveMAC is the MAC of the tunnel device that a node has on the underlay of a family when it has stated none, so that
// every node knows everyone's without being told. It is unicast, locally administered, and the same everywhere and
// always: the first six octets of the SHA-256 of network, node and "ipv4" or "ipv6" with a zero byte after each of the
// first two, with the lowest bit of the first octet cleared and the next one set. In a shell:
//
//	printf 'pods\0a\0ipv4' | sha256sum
//
// 46 bits are left: among 10 000 nodes two share one with a probability of less than one in a million.
func DeriveMAC(network, node string, f inet.Family) inet.MAC {
	b := append(make([]byte, 0, 128), network...)
	b = append(append(b, 0), node...)
	h := sha256.Sum256(append(append(b, 0), f.String()...))
	m := inet.MAC(h[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// DeriveVNI is the tunnel id of a network that has stated none: from 1 to [MaxVNI], made of the first four octets of the
// SHA-256 of its name, as a big-endian number modulo [MaxVNI], plus 1. Two networks of one node may meet in one: then
// one of them has to state its own.
func DeriveVNI(network string) uint32 {
	h := sha256.Sum256([]byte(network))
	n := uint32(h[0])<<24 | uint32(h[1])<<16 | uint32(h[2])<<8 | uint32(h[3])
	return n%MaxVNI + 1
}

// NodeAddr is the node's own address on its overlay devices, taken from one of its ranges: the source of what the node
// itself sends to remote pods, and where they answer. It never is the first address after the base, the gateway's.
//
// Of an IPv4 range it is the base address (10.244.1.0 of 10.244.1.0/24), as flannel has it, which no allocator hands
// out. Of an IPv6 range it is the last one: the base is the subnet-router anycast address (RFC 4291, section 2.6.1),
// which Linux takes for itself on a forwarding bridge; no TCP connection to it is accepted then. An allocator that may
// come to the end of its IPv6 range has to leave the last address out.
//
// A range of a single address is that address. The zero Prefix has the zero Addr.
func NodeAddr(r netip.Prefix) netip.Addr {
	r = r.Masked()
	if !r.IsValid() || inet.FamilyOf(r.Addr()) != inet.IPv6 {
		return r.Addr()
	}
	a := r.Addr().As16()
	for i := r.Bits(); i < 128; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom16(a)
}

// NodeAddrs are the node's own addresses in the overlay: the [NodeAddr] of its first range of each family that it has.
func (p Peer) NodeAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, f := range inet.Families {
		if r := p.PodsOf(f); len(r) > 0 {
			addrs = append(addrs, NodeAddr(r[0]))
		}
	}
	return addrs
}
