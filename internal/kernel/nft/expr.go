//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Exprs is the list of expressions of a rule. The methods add one and return the longer list. It is large since each thing that
// a rule looks at or does is a method.
type Exprs struct{ raw attrs }

// Offsets and lengths in bytes that rules load, for [Exprs.Network] and [Exprs.Link].
const (
	srcIPv4, dstIPv4 = 12, 16
	srcIPv6, dstIPv6 = 8, 24
	srcMAC           = 6
)

func (x Exprs) add(name string, fill func(*attrs)) Exprs {
	raw := bytes.Clone(x.raw)
	a := attrs(raw)
	a.nest(unix.NFTA_LIST_ELEM, func(a *attrs) {
		a.str(unix.NFTA_EXPR_NAME, name)
		a.nest(unix.NFTA_EXPR_DATA, fill)
	})
	return Exprs{a}
}

// Meta loads a property of the packet (NFT_META_...) into a register.
func (x Exprs) Meta(key, register uint32) Exprs {
	return x.add("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, key)
		a.u32(unix.NFTA_META_DREG, register)
	})
}

// Payload loads bytes of a header (NFT_PAYLOAD_...) into a register.
func (x Exprs) Payload(base, offset, size, register uint32) Exprs {
	return x.add("payload", func(a *attrs) {
		a.u32(unix.NFTA_PAYLOAD_DREG, register)
		a.u32(unix.NFTA_PAYLOAD_BASE, base)
		a.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		a.u32(unix.NFTA_PAYLOAD_LEN, size)
	})
}

// Equal goes on if the first register holds the value.
func (x Exprs) Equal(value []byte) Exprs { return x.compare(unix.NFT_CMP_EQ, value) }

// NotEqual goes on if the first register does not hold the value.
func (x Exprs) NotEqual(value []byte) Exprs { return x.compare(unix.NFT_CMP_NEQ, value) }

func (x Exprs) compare(op uint32, value []byte) Exprs {
	return x.add("cmp", func(a *attrs) {
		a.u32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_CMP_OP, op)
		a.nest(unix.NFTA_CMP_DATA, func(a *attrs) { a.put(unix.NFTA_DATA_VALUE, value) })
	})
}

// In goes on if the first register is in the set.
func (x Exprs) In(set string) Exprs { return x.lookup(set, false) }

// NotIn goes on if the first register is not in the set.
func (x Exprs) NotIn(set string) Exprs { return x.lookup(set, true) }

func (x Exprs) lookup(set string, invert bool) Exprs {
	return x.add("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
		if invert {
			a.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

// Family goes on for packets of IPv4 or IPv6, which the inet family mixes.
func (x Exprs) Family(family uint8) Exprs {
	return x.Meta(unix.NFT_META_NFPROTO, unix.NFT_REG_1).Equal([]byte{family})
}

// Source loads the source address.
func (x Exprs) Source(family uint8) Exprs {
	if family == IPv4 {
		return x.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, srcIPv4, 4, unix.NFT_REG_1)
	}
	return x.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, srcIPv6, 16, unix.NFT_REG_1)
}

// Destination loads the destination address.
func (x Exprs) Destination(family uint8) Exprs {
	if family == IPv4 {
		return x.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, dstIPv4, 4, unix.NFT_REG_1)
	}
	return x.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, dstIPv6, 16, unix.NFT_REG_1)
}

// InName loads the name of the interface that the packet came in by, a key of [IfName].
func (x Exprs) InName() Exprs { return x.Meta(unix.NFT_META_IIFNAME, unix.NFT_REG_1) }

// SourceMAC loads the frame's source address.
func (x Exprs) SourceMAC() Exprs {
	return x.Payload(unix.NFT_PAYLOAD_LL_HEADER, srcMAC, 6, unix.NFT_REG_1)
}

// InNameMAC loads that name and the frame's source address, a key of [IfNameMAC].
func (x Exprs) InNameMAC() Exprs {
	return x.InName().Payload(unix.NFT_PAYLOAD_LL_HEADER, srcMAC, 6, unix.NFT_REG32_00+unix.IFNAMSIZ/4)
}

// RandomFully has a source port drawn at random, so that connections which begin at once do not draw the same one
// (NF_NAT_RANGE_PROTO_RANDOM_FULLY).
const RandomFully = 1 << 4

// Masquerade replaces the source address by one of the interface that the packet leaves by, and the port by a random one.
func (x Exprs) Masquerade() Exprs {
	return x.add("masq", func(a *attrs) { a.u32(unix.NFTA_MASQ_FLAGS, RandomFully) })
}

// Unmarked goes on for packets whose mark has none of the bits.
func (x Exprs) Unmarked(bits uint32) Exprs {
	return x.Meta(unix.NFT_META_MARK, unix.NFT_REG_1).masked(binary.NativeEndian.AppendUint32(nil, bits)).Equal(make([]byte, 4))
}

// masked leaves of the first register the bits of the mask.
func (x Exprs) masked(mask []byte) Exprs {
	return x.add("bitwise", func(a *attrs) {
		a.u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
		a.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.nest(unix.NFTA_BITWISE_MASK, func(a *attrs) { a.put(unix.NFTA_DATA_VALUE, mask) })
		a.nest(unix.NFTA_BITWISE_XOR, func(a *attrs) { a.put(unix.NFTA_DATA_VALUE, make([]byte, len(mask))) })
	})
}

// Verdict ends the evaluation of the chain: [Drop], [Accept], or NFT_RETURN.
func (x Exprs) Verdict(code int32) Exprs { return x.verdict(code, "") }

// Jump calls a chain.
func (x Exprs) Jump(chain string) Exprs { return x.verdict(unix.NFT_JUMP, chain) }

func (x Exprs) verdict(code int32, chain string) Exprs {
	return x.add("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		a.nest(unix.NFTA_IMMEDIATE_DATA, func(a *attrs) {
			a.jump(code, chain)
		})
	})
}

// jump is a verdict as data; chain may be empty.
func (a *attrs) jump(code int32, chain string) {
	a.nest(unix.NFTA_DATA_VERDICT, func(a *attrs) {
		a.u32(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			a.str(unix.NFTA_VERDICT_CHAIN, chain)
		}
	})
}

// Counter counts packets and bytes.
func (x Exprs) Counter() Exprs {
	return x.add("counter", func(a *attrs) {
		a.u64(unix.NFTA_COUNTER_BYTES, 0)
		a.u64(unix.NFTA_COUNTER_PACKETS, 0)
	})
}

// Match is a match of iptables: its name, revision, and the structure that its module reads.
func (x Exprs) Match(name string, revision uint32, info []byte) Exprs {
	return x.add("match", func(a *attrs) {
		a.str(unix.NFTA_MATCH_NAME, name)
		a.u32(unix.NFTA_MATCH_REV, revision)
		a.put(unix.NFTA_MATCH_INFO, info)
	})
}

func (x Exprs) target(name string, info []byte) Exprs {
	return x.add("target", func(a *attrs) {
		a.str(unix.NFTA_TARGET_NAME, name)
		a.u32(unix.NFTA_TARGET_REV, 0)
		a.put(unix.NFTA_TARGET_INFO, info)
	})
}

// String writes the expressions so that two lists which do the same, one made here and one read from the kernel, have the
// same text. What a counter counted is left out.
func (x Exprs) String() string {
	var out []byte
	for _, e := range each(x.raw) {
		if out != nil {
			out = append(out, "; "...)
		}
		out = describe(out, getStr(e, unix.NFTA_EXPR_NAME), get(e, unix.NFTA_EXPR_DATA))
	}
	return string(out)
}

func describe(b []byte, name string, d []byte) []byte {
	b = append(b, name...)
	switch name {
	case "meta":
		b = numbers(b, getU32(d, unix.NFTA_META_KEY), register(getU32(d, unix.NFTA_META_SREG)), register(getU32(d, unix.NFTA_META_DREG)))
	case "payload":
		b = numbers(b, getU32(d, unix.NFTA_PAYLOAD_BASE), getU32(d, unix.NFTA_PAYLOAD_OFFSET), getU32(d, unix.NFTA_PAYLOAD_LEN),
			register(getU32(d, unix.NFTA_PAYLOAD_DREG)))
	case "cmp":
		b = numbers(b, getU32(d, unix.NFTA_CMP_OP), register(getU32(d, unix.NFTA_CMP_SREG)))
		b = hex.AppendEncode(append(b, ' '), get(d, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE))
	case "bitwise":
		b = numbers(b, register(getU32(d, unix.NFTA_BITWISE_SREG)), register(getU32(d, unix.NFTA_BITWISE_DREG)))
		b = hex.AppendEncode(append(b, ' '), get(d, unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE))
		b = hex.AppendEncode(append(b, ' '), get(d, unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE))
	case "lookup":
		b = strconv.AppendQuote(append(b, ' '), getStr(d, unix.NFTA_LOOKUP_SET))
		b = numbers(b, register(getU32(d, unix.NFTA_LOOKUP_SREG)), getU32(d, unix.NFTA_LOOKUP_FLAGS))
		if get(d, unix.NFTA_LOOKUP_DREG) != nil {
			b = numbers(b, register(getU32(d, unix.NFTA_LOOKUP_DREG)))
		}
	case "masq":
		b = numbers(b, getU32(d, unix.NFTA_MASQ_FLAGS), getU32(d, unix.NFTA_MASQ_REG_PROTO_MIN), getU32(d, unix.NFTA_MASQ_REG_PROTO_MAX))
	case "ct":
		b = numbers(b, getU32(d, unix.NFTA_CT_KEY), register(getU32(d, unix.NFTA_CT_DREG)))
	case "fib":
		b = numbers(b, getU32(d, unix.NFTA_FIB_RESULT), getU32(d, unix.NFTA_FIB_FLAGS), register(getU32(d, unix.NFTA_FIB_DREG)))
	case "nat":
		b = numbers(b, getU32(d, unix.NFTA_NAT_TYPE), getU32(d, unix.NFTA_NAT_FAMILY), register(getU32(d, unix.NFTA_NAT_REG_ADDR_MIN)),
			register(getU32(d, unix.NFTA_NAT_REG_PROTO_MIN)))
	case "counter":
	case "match", "target":
		b = strconv.AppendQuote(append(b, ' '), getStr(d, unix.NFTA_MATCH_NAME))
		b = numbers(b, getU32(d, unix.NFTA_MATCH_REV))
		b = hex.AppendEncode(append(b, ' '), bytes.TrimRight(get(d, unix.NFTA_MATCH_INFO), "\x00"))
	default:
		if code, chain, ok := verdictOf(d); ok && name == "immediate" {
			b = strconv.AppendInt(append(b, ' '), int64(code), 10)
			return strconv.AppendQuote(append(b, ' '), chain)
		}
		b = hex.AppendEncode(append(b, ' '), d)
	}
	return b
}

func numbers(b []byte, list ...uint32) []byte {
	for _, n := range list {
		b = strconv.AppendUint(append(b, ' '), uint64(n), 10)
	}
	return b
}

// register counts in words of 32 bits, whatever of its two names a register was given by.
func register(r uint32) uint32 {
	if r >= unix.NFT_REG32_00 {
		return r - unix.NFT_REG32_00 + 4
	}
	return 4 * r
}

func verdictOf(immediate []byte) (code int32, chain string, ok bool) {
	v := get(immediate, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT)
	b := get(v, unix.NFTA_VERDICT_CODE)
	if len(b) < 4 {
		return 0, "", false
	}
	return int32(binary.BigEndian.Uint32(b)), getStr(v, unix.NFTA_VERDICT_CHAIN), true
}

// Jumps is the chain that the rule jumps or goes to, "" if to none.
func (x Exprs) Jumps() string {
	for _, e := range each(x.raw) {
		if getStr(e, unix.NFTA_EXPR_NAME) == "immediate" {
			if _, chain, ok := verdictOf(get(e, unix.NFTA_EXPR_DATA)); ok && chain != "" {
				return chain
			}
		}
	}
	return ""
}

// Set is the first set that the rule looks into, "" if there is none.
func (x Exprs) Set() string {
	for _, e := range each(x.raw) {
		if getStr(e, unix.NFTA_EXPR_NAME) == "lookup" {
			return getStr(get(e, unix.NFTA_EXPR_DATA), unix.NFTA_LOOKUP_SET)
		}
	}
	return ""
}

// Has reports whether the expressions of other stand in the rule, one after the other.
func (x Exprs) Has(other Exprs) bool { return strings.Contains(x.String(), other.String()) }

// Lookups are the sets that the rule looks into, in order.
func (x Exprs) Lookups() (sets []string) {
	for _, e := range each(x.raw) {
		if getStr(e, unix.NFTA_EXPR_NAME) == "lookup" {
			sets = append(sets, getStr(e, unix.NFTA_EXPR_DATA, unix.NFTA_LOOKUP_SET))
		}
	}
	return sets
}

// Refuses reports whether the rule drops or rejects every packet that comes to it.
func (x Exprs) Refuses() bool {
	refuses := false
	for _, e := range each(x.raw) {
		switch name := getStr(e, unix.NFTA_EXPR_NAME); name {
		case "counter", "log":
		case "reject":
			refuses = true
		case "immediate":
			code, _, ok := verdictOf(get(e, unix.NFTA_EXPR_DATA))
			refuses = ok && code == Drop
		default:
			return false
		}
	}
	return refuses
}
