//go:build linux

package nft

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// Families of tables.
const (
	IPv4   = uint8(unix.NFPROTO_IPV4)
	IPv6   = uint8(unix.NFPROTO_IPV6)
	INet   = uint8(unix.NFPROTO_INET)
	ARP    = uint8(unix.NFPROTO_ARP)
	Bridge = uint8(unix.NFPROTO_BRIDGE)
)

// Hooks of the families ip, ip6 and inet; bridge numbers the first five alike.
const (
	Prerouting  = unix.NF_INET_PRE_ROUTING
	Forward     = unix.NF_INET_FORWARD
	Output      = unix.NF_INET_LOCAL_OUT
	Postrouting = unix.NF_INET_POST_ROUTING
)

// ARPIn is the hook of the family arp for what comes in (NF_ARP_IN).
const ARPIn = 0

// Policies, and verdicts that end the evaluation.
const (
	Drop   = 0
	Accept = 1
)

// Table is a table's name within its family.
type Table struct {
	Family uint8
	Name   string
}

// Title is the family and the name, as the nft program writes them.
func (t Table) Title() string {
	name, ok := map[uint8]string{IPv4: "ip", IPv6: "ip6", INet: "inet", ARP: "arp", Bridge: "bridge"}[t.Family]
	if !ok {
		name = fmt.Sprintf("family %d", t.Family)
	}
	return name + " " + t.Name
}

// Hook is where the kernel calls a base chain. The zero value stands for a chain that only rules call.
type Hook struct {
	Type     string // filter, nat, route
	Num      int
	Priority int32
	Policy   uint32 // [Drop] or [Accept]
}

// Chain is a chain without its rules.
type Chain struct {
	Table
	Name string
	Hook
}

// Rule is a rule of a chain as the kernel has it.
type Rule struct {
	Table
	Chain   string
	Handle  uint64 // unique in the table
	Exprs   Exprs
	Comment string // of the rule itself; the comment match of iptables is an expression
}

// Set holds keys, and as a map a value for each. In the bridge and inet families as in the others, its addresses are those of
// KeyType.
type Set struct {
	Table
	Name     string
	Key      KeyType
	Data     KeyType // of a map: what its values are
	Interval bool    // elements are where an interval begins and where it ends
}

// KeyType is what the elements of a set are.
type KeyType struct {
	ID  uint32 // datatype number of the nft program, for its listing
	Len uint32 // in bytes
}

// The types of keys that sets of this project have. A concatenation pads each part to four bytes and has six bits of its
// number for each.
var (
	AddrIPv4   = KeyType{ID: 7, Len: 4}
	AddrIPv6   = KeyType{ID: 8, Len: 16}
	IfName     = KeyType{ID: 41, Len: unix.IFNAMSIZ}
	IfNameMAC  = KeyType{ID: 41<<6 | 9, Len: unix.IFNAMSIZ + 8}
	ProtoPort  = KeyType{ID: 12<<6 | 13, Len: 8}
	IPv4Port   = KeyType{ID: 7<<6 | 13, Len: 8}
	IPv6Port   = KeyType{ID: 8<<6 | 13, Len: 20}
	IPv4Proto  = KeyType{ID: 7<<12 | 12<<6 | 13, Len: 12} // address, protocol, port
	IPv6Proto  = KeyType{ID: 8<<12 | 12<<6 | 13, Len: 24}
	VerdictMap = KeyType{ID: unix.NFT_DATA_VERDICT, Len: 16} // jumps
	keyBytes   = []byte{0, 4, 2, 0, 0, 0}                    // user data of a set: its key is big-endian
	keyHost    = []byte{0, 4, 1, 0, 0, 0}                    // its key is in the machine's order, as interface names are
	dataBytes  = []byte{1, 4, 2, 0, 0, 0}                    // and its values are big-endian
	nftHostKey = map[KeyType]bool{IfName: true}
)

// Element is one key of a set.
type Element struct {
	Key     string // its bytes
	Data    string // the value that a map has for it
	Jump    string // the chain that a map of verdicts has for it
	End     bool   // of an interval set: the first key that is no longer in the interval
	Comment string // at most 250 bytes
}

func (e Element) attrs(a *attrs) {
	a.nest(unix.NFTA_SET_ELEM_KEY, func(a *attrs) { a.put(unix.NFTA_DATA_VALUE, []byte(e.Key)) })
	if e.End {
		a.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if e.Data != "" {
		a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) { a.put(unix.NFTA_DATA_VALUE, []byte(e.Data)) })
	}
	if e.Jump != "" {
		a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) { a.jump(unix.NFT_JUMP, e.Jump) })
	}
	if e.Comment != "" {
		a.put(unix.NFTA_SET_ELEM_USERDATA, comment(e.Comment))
	}
}

func elements(list []Element) attrs {
	var a attrs
	a.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
		for _, e := range list {
			a.nest(unix.NFTA_LIST_ELEM, e.attrs)
		}
	})
	return a
}

func readElements(row []byte) (list []Element) {
	for _, e := range each(get(row, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		key := get(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
		if key == nil { // a catch-all element
			continue
		}
		list = append(list, Element{
			Key:     string(key),
			Data:    string(get(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE)),
			Jump:    getStr(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN),
			End:     getU32(e, unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0,
			Comment: commentOf(get(e, unix.NFTA_SET_ELEM_USERDATA)),
		})
	}
	return list
}

func readChain(family uint8, row []byte) Chain {
	c := Chain{
		Table: Table{Family: family, Name: getStr(row, unix.NFTA_CHAIN_TABLE)},
		Name:  getStr(row, unix.NFTA_CHAIN_NAME),
	}
	if hook := get(row, unix.NFTA_CHAIN_HOOK); hook != nil {
		c.Hook = Hook{
			Type:     getStr(row, unix.NFTA_CHAIN_TYPE),
			Num:      int(getU32(hook, unix.NFTA_HOOK_HOOKNUM)),
			Priority: int32(getU32(hook, unix.NFTA_HOOK_PRIORITY)),
			Policy:   getU32(row, unix.NFTA_CHAIN_POLICY),
		}
	}
	return c
}

func readRule(family uint8, row []byte) Rule {
	return Rule{
		Table:   Table{Family: family, Name: getStr(row, unix.NFTA_RULE_TABLE)},
		Chain:   getStr(row, unix.NFTA_RULE_CHAIN),
		Handle:  getU64(row, unix.NFTA_RULE_HANDLE),
		Exprs:   Exprs{bytes.Clone(get(row, unix.NFTA_RULE_EXPRESSIONS))},
		Comment: commentOf(get(row, unix.NFTA_RULE_USERDATA)),
	}
}

func readSet(family uint8, row []byte) Set {
	return Set{
		Table:    Table{Family: family, Name: getStr(row, unix.NFTA_SET_TABLE)},
		Name:     getStr(row, unix.NFTA_SET_NAME),
		Key:      KeyType{ID: getU32(row, unix.NFTA_SET_KEY_TYPE), Len: getU32(row, unix.NFTA_SET_KEY_LEN)},
		Data:     KeyType{ID: getU32(row, unix.NFTA_SET_DATA_TYPE), Len: getU32(row, unix.NFTA_SET_DATA_LEN)},
		Interval: getU32(row, unix.NFTA_SET_FLAGS)&unix.NFT_SET_INTERVAL != 0,
	}
}
