//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// statusDNAT is IPS_DST_NAT of nf_conntrack_common.h.
const statusDNAT = 1 << 5

// word is a register of 32 bits by its number.
func word(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// ToLocal goes on for packets whose destination is an address of this node.
func (x Exprs) ToLocal() Exprs {
	return x.add("fib", func(a *attrs) {
		a.u32(unix.NFTA_FIB_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		a.u32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	}).Equal(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
}

// Redirected goes on for packets whose destination was replaced.
func (x Exprs) Redirected() Exprs {
	mask := binary.NativeEndian.AppendUint32(nil, statusDNAT)
	return x.add("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_KEY, unix.NFT_CT_STATUS)
		a.u32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
	}).masked(mask).NotEqual(make([]byte, 4))
}

// Port loads protocol and destination port, a key of [ProtoPort].
func (x Exprs) Port() Exprs { return x.port(0) }

// port loads them into that register and the one after it.
func (x Exprs) port(n uint32) Exprs {
	return x.Meta(unix.NFT_META_L4PROTO, word(n)).Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, word(n+1))
}

// DestinationPort loads destination address, protocol and port, a key of [IPv4Proto] or [IPv6Proto].
func (x Exprs) DestinationPort(family uint8) Exprs { return x.Destination(family).port(words(family)) }

// words is the size of an address.
func words(family uint8) uint32 {
	if family == IPv4 {
		return 1
	}
	return 4
}

// DNAT goes on if the first register is in the map, and replaces destination and port by those of the map.
func (x Exprs) DNAT(family uint8, set string) Exprs {
	return x.look(set, unix.NFT_REG_1).add("nat", func(a *attrs) {
		a.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		a.u32(unix.NFTA_NAT_FAMILY, uint32(family))
		a.u32(unix.NFTA_NAT_REG_ADDR_MIN, word(0))
		a.u32(unix.NFTA_NAT_REG_PROTO_MIN, word(words(family)))
	})
}

// Dispatch jumps to the chain that the map has for the first register, if it has one.
func (x Exprs) Dispatch(set string) Exprs { return x.look(set, unix.NFT_REG_VERDICT) }

func (x Exprs) look(set string, register uint32) Exprs {
	return x.add("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_LOOKUP_DREG, register)
	})
}

// SourceIn goes on for packets from the prefix.
func (x Exprs) SourceIn(p netip.Prefix) Exprs {
	family := IPv4
	if p.Addr().Is6() {
		family = IPv6
	}
	return x.Family(family).Source(family).within(p)
}

// DestinationIn goes on for packets to the prefix.
func (x Exprs) DestinationIn(p netip.Prefix) Exprs {
	family := IPv4
	if p.Addr().Is6() {
		family = IPv6
	}
	return x.Family(family).Destination(family).within(p)
}

func (x Exprs) within(p netip.Prefix) Exprs {
	if !p.IsSingleIP() {
		mask := make([]byte, p.Addr().BitLen()/8)
		for i := range p.Bits() {
			mask[i/8] |= 1 << (7 - i%8)
		}
		x = x.masked(mask)
	}
	return x.Equal(p.Masked().Addr().AsSlice())
}
