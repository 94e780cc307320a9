//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Compat is a rule of iptables in a table that iptables-nft keeps, as far as this project writes such rules. Written by
// [Compat.Exprs] it is byte for byte what iptables-nft 1.8 writes itself, so that iptables-save and iptables -S list it.
type Compat struct {
	Src, Dst    [2]netip.Addr // -m iprange --src-range, --dst-range: first and last; zero is any
	Established bool          // -m conntrack --ctstate RELATED,ESTABLISHED
	Mark        uint32        // -m mark --mark N/N: all of these bits are set; 0 is any
	Comment     string        // -m comment --comment, at most 255 bytes
	Target      string        // ACCEPT, DROP, RETURN, MASQUERADE, or the chain to jump to; "" is none
	Random      bool          // --random-fully, of MASQUERADE
	Other       bool          // there is more to the rule
}

// Sizes and flags of xt_iprange.h, xt_conntrack.h and xt_comment.h, revisions 1, 3 and 0.
const (
	iprangeLen   = 72
	iprangeFlags = 64
	iprangeSrc   = 1
	iprangeDst   = 2

	conntrackLen    = 168
	conntrackFlags  = 146 // u16: which of the conditions count
	conntrackInvert = 148
	conntrackStates = 150
	conntrackState  = 1      // the condition: state
	ctEstablished   = 1 << 1 // XT_CONNTRACK_STATE_BIT(IP_CT_ESTABLISHED)
	ctRelated       = 1 << 2

	commentLen = 256
)

// Exprs writes the rule. One with target MASQUERADE must have a source, which tells the family.
func (c Compat) Exprs() Exprs {
	var x Exprs
	if info := iprange(c.Src, c.Dst); info != nil {
		x = x.Match("iprange", 1, info)
	}
	if c.Established {
		x = x.Match("conntrack", 3, established())
	}
	if c.Mark != 0 {
		x = x.Match("mark", 1, marked(c.Mark))
	}
	if c.Comment != "" {
		info := make([]byte, commentLen)
		copy(info[:commentLen-1], c.Comment)
		x = x.Match("comment", 0, info)
	}
	x = x.Counter()
	switch c.Target {
	case "":
		return x
	case "ACCEPT":
		return x.Verdict(Accept)
	case "DROP":
		return x.Verdict(Drop)
	case "RETURN":
		return x.Verdict(unix.NFT_RETURN)
	case "MASQUERADE":
		return x.target(c.Target, masquerade(c.Src[0], c.Random))
	}
	return x.Jump(c.Target)
}

// masquerade is a struct nf_nat_ipv4_multi_range_compat of one range, or for IPv6 a struct nf_nat_range, without any of
// their options but the port.
func masquerade(src netip.Addr, random bool) []byte {
	var flags uint32
	if random {
		flags = RandomFully
	}
	if src.Is6() {
		info := make([]byte, 40)
		binary.NativeEndian.PutUint32(info, flags)
		return info
	}
	info := make([]byte, 24)
	binary.NativeEndian.PutUint32(info, 1)
	binary.NativeEndian.PutUint32(info[4:], flags)
	return info
}

// randomFully reads such a structure.
func randomFully(family uint8, info []byte) bool {
	at := 0
	if family == IPv4 {
		at = 4
	}
	return len(info) >= at+4 && binary.NativeEndian.Uint32(info[at:])&RandomFully != 0
}

// marked is a struct xt_mark_mtinfo1: mark, mask, invert.
func marked(bits uint32) []byte {
	info := make([]byte, 12)
	binary.NativeEndian.PutUint32(info, bits)
	binary.NativeEndian.PutUint32(info[4:], bits)
	return info
}

func iprange(src, dst [2]netip.Addr) []byte {
	info := make([]byte, iprangeLen)
	for i, a := range []netip.Addr{src[0], src[1], dst[0], dst[1]} {
		if a.IsValid() {
			copy(info[16*i:], a.AsSlice())
			info[iprangeFlags] |= byte(1 << (i / 2)) // iprangeSrc, iprangeDst
		}
	}
	if info[iprangeFlags] == 0 {
		return nil
	}
	return info
}

func established() []byte {
	info := make([]byte, conntrackLen)
	binary.NativeEndian.PutUint16(info[conntrackFlags:], conntrackState)
	binary.NativeEndian.PutUint16(info[conntrackStates:], ctEstablished|ctRelated)
	return info
}

// Compat reads a rule of a table that iptables-nft keeps.
func (r Rule) Compat() Compat {
	var c Compat
	var mask uint32 // of the packet's mark, where that is in the register
	for _, e := range each(r.Exprs.raw) {
		d := get(e, unix.NFTA_EXPR_DATA)
		switch name := getStr(e, unix.NFTA_EXPR_NAME); name {
		case "counter":
		case "match":
			c.match(r.Family, getStr(d, unix.NFTA_MATCH_NAME), getU32(d, unix.NFTA_MATCH_REV), get(d, unix.NFTA_MATCH_INFO))
		case "target":
			c.Target = getStr(d, unix.NFTA_TARGET_NAME)
			c.Random = c.Target == "MASQUERADE" && randomFully(r.Family, get(d, unix.NFTA_TARGET_INFO))
		case "masq":
			c.Target, c.Random = "MASQUERADE", getU32(d, unix.NFTA_MASQ_FLAGS)&RandomFully != 0
		case "meta":
			c.Other = c.Other || getU32(d, unix.NFTA_META_KEY) != unix.NFT_META_MARK
		case "bitwise":
			mask = native32(get(d, unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE))
			c.Other = c.Other || native32(get(d, unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)) != 0
		case "cmp":
			c.Mark = native32(get(d, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE))
			c.Other = c.Other || c.Mark == 0 || c.Mark != mask || getU32(d, unix.NFTA_CMP_OP) != unix.NFT_CMP_EQ
		case "immediate":
			c.verdict(d)
		default:
			c.Other = true
		}
	}
	return c
}

func (c *Compat) match(family uint8, name string, revision uint32, info []byte) {
	switch {
	case name == "comment" && revision == 0:
		c.Comment = cString(info)
	case name == "iprange" && revision == 1 && len(info) > iprangeFlags && info[iprangeFlags]&^(iprangeSrc|iprangeDst) == 0:
		if info[iprangeFlags]&iprangeSrc != 0 {
			c.Src = [2]netip.Addr{unionAddr(family, info), unionAddr(family, info[16:])}
		}
		if info[iprangeFlags]&iprangeDst != 0 {
			c.Dst = [2]netip.Addr{unionAddr(family, info[32:]), unionAddr(family, info[48:])}
		}
	case name == "mark" && revision == 1 && len(info) >= 9 && info[8] == 0 && native32(info) != 0 && native32(info) == native32(info[4:]):
		c.Mark = native32(info)
	case name == "conntrack" && revision == 3 && string(info) == string(established()):
		c.Established = true
	default:
		c.Other = true
	}
}

func native32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// unionAddr reads a union nf_inet_addr.
func unionAddr(family uint8, b []byte) netip.Addr {
	if family == IPv4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

func (c *Compat) verdict(immediate []byte) {
	code, chain, ok := verdictOf(immediate)
	switch {
	case ok && code == Accept:
		c.Target = "ACCEPT"
	case ok && code == Drop:
		c.Target = "DROP"
	case ok && code == unix.NFT_RETURN:
		c.Target = "RETURN"
	case ok && code == unix.NFT_JUMP:
		c.Target = chain
	default:
		c.Other = true
	}
}
