//go:build linux

package portmap

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
)

// The chains and sets of the table.
const (
	prerouting  = "prerouting"
	output      = "output"
	postrouting = "postrouting"
	hostPorts   = "hostports"

	owners   = "owners"   // of pods: what each has, see record
	localnet = "localnet" // links whose route_localnet was 0
	noSNAT   = "nosnat4"  // ports of pods that 127.0.0.0/8 cannot reach
	subnets  = "snat/"    // begins the chains for the source addresses of packets to pods of one subnet
)

// family is what a family has in the table: ports on every address, ports on single ones, pods.
type family struct {
	nf             uint8
	any, one, pods string
}

var families = map[bool]family{true: {nft.IPv4, "any4", "addr4", "pods4"}, false: {nft.IPv6, "any6", "addr6", "pods6"}}

func table() nft.Table { return nft.Table{Family: nft.INet, Name: mark.HostPorts} }

// bases are the base chains. Ours comes before others' source NAT: what has to be answered by way of the node is not theirs to
// decide.
func bases() []nft.Chain {
	chain := func(name string, hook int, priority int32) nft.Chain {
		return nft.Chain{Table: table(), Name: name, Hook: nft.Hook{Type: "nat", Num: hook, Priority: priority, Policy: nft.Accept}}
	}
	return []nft.Chain{chain(prerouting, nft.Prerouting, -100), chain(output, nft.Output, -100), chain(postrouting, nft.Postrouting, 99)}
}

func sets() (list []nft.Set) {
	add := func(name string, key, data nft.KeyType) {
		list = append(list, nft.Set{Table: table(), Name: name, Key: key, Data: data})
	}
	add("any4", nft.ProtoPort, nft.IPv4Port)
	add("any6", nft.ProtoPort, nft.IPv6Port)
	add("addr4", nft.IPv4Proto, nft.IPv4Port)
	add("addr6", nft.IPv6Proto, nft.IPv6Port)
	add("pods4", nft.AddrIPv4, nft.VerdictMap)
	add("pods6", nft.AddrIPv6, nft.VerdictMap)
	add(noSNAT, nft.ProtoPort, nft.KeyType{})
	add(owners, nft.IfName, nft.KeyType{})
	add(localnet, nft.IfName, nft.KeyType{})
	return list
}

var loopback4, loopback6 = netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")

// static are the rules that are there whatever pods there are.
func static() (rules []nft.Rule) {
	add := func(chain string, x nft.Exprs) {
		rules = append(rules, nft.Rule{Table: table(), Chain: chain, Comment: mark.Word, Exprs: x})
	}
	x := nft.Exprs{}
	add(prerouting, x.ToLocal().Jump(hostPorts))
	add(output, x.ToLocal().Jump(hostPorts))
	add(hostPorts, x.Family(nft.IPv4).DestinationPort(nft.IPv4).DNAT(nft.IPv4, "addr4"))
	add(hostPorts, x.DestinationIn(loopback4).Port().In(noSNAT).Verdict(unix.NFT_RETURN))
	add(hostPorts, x.Family(nft.IPv4).Port().DNAT(nft.IPv4, "any4"))
	add(hostPorts, x.Family(nft.IPv6).DestinationPort(nft.IPv6).DNAT(nft.IPv6, "addr6"))
	add(hostPorts, x.DestinationIn(loopback6).Verdict(unix.NFT_RETURN))
	add(hostPorts, x.Family(nft.IPv6).Port().DNAT(nft.IPv6, "any6"))
	add(postrouting, x.Family(nft.IPv4).Redirected().Destination(nft.IPv4).Dispatch("pods4"))
	add(postrouting, x.Family(nft.IPv6).Redirected().Destination(nft.IPv6).Dispatch("pods6"))
	return rules
}

// subnet is what decides about the source addresses of packets to a pod: pods that have it in common share a chain.
type subnet struct {
	device string // whose route_localnet has to be 1; empty if none's
	prefix netip.Prefix
	snat   SNAT
}

// chain names the device, so that it is seen which chains are left that need its route_localnet.
func (s subnet) chain() string {
	name := subnets + part(s.device) + "/" + strings.ReplaceAll(s.prefix.Masked().String(), ":", "_")
	switch s.snat {
	case SNATNone:
		return name + "/none"
	case SNATAll:
		return name + "/all"
	case SNATNeeded:
	}
	return name
}

// part is a device in the name of a chain.
func part(device string) string {
	for _, c := range []byte(device) {
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-') {
			return "~" + mark.Hash(device)
		}
	}
	return dash(device)
}

// needs reports whether a chain for a subnet needs route_localnet of a device.
func needs(chain, device string) bool {
	rest, ok := strings.CutPrefix(chain, subnets)
	return ok && strings.HasPrefix(rest, part(device)+"/")
}

func (s subnet) rules() (rules []nft.Rule) {
	var list []nft.Exprs
	x := nft.Exprs{}
	switch s.snat {
	case SNATNone:
	case SNATAll:
		list = append(list, x.Masquerade())
	case SNATNeeded:
		if s.prefix.Addr().Is4() {
			list = append(list, x.SourceIn(loopback4).Masquerade())
		}
		list = append(list, x.SourceIn(s.prefix).Masquerade())
	}
	for _, x := range list {
		rules = append(rules, nft.Rule{Table: table(), Chain: s.chain(), Comment: mark.Word, Exprs: x})
	}
	return rules
}

// faults says what is missing or wrong in chains, which have these rules.
func faults(want, have []nft.Rule, chains ...string) (wrong []string) {
	text := func(chain string, list []nft.Rule) (s string) {
		for _, r := range list {
			if r.Chain == chain {
				s += r.Exprs.String() + "\n"
			}
		}
		return s
	}
	for _, chain := range chains {
		if text(chain, want) != text(chain, have) {
			wrong = append(wrong, fmt.Sprintf("the rules of chain %s of table %s are not those that cniblocks makes", chain, table().Title()))
		}
	}
	return wrong
}

// build adds to the batch all that does not depend on pods.
func build(b *nft.Batch) {
	b.AddTable(table())
	b.WakeTable(table())
	for _, c := range bases() {
		b.AddChain(c)
		b.FlushChain(table(), c.Name)
	}
	b.AddChain(nft.Chain{Table: table(), Name: hostPorts})
	b.FlushChain(table(), hostPorts)
	for _, s := range sets() {
		b.AddSet(s)
	}
	for _, r := range static() {
		b.AppendRule(r)
	}
}

// key is that of a map among ports on every address or on single ones.
func (m Map) key() string {
	key := string([]byte{byte(m.Proto), 0, 0, 0, byte(m.Host.Port() >> 8), byte(m.Host.Port()), 0, 0})
	if m.any() {
		return key
	}
	return string(m.Host.Addr().AsSlice()) + key
}

func (m Map) set() string {
	f := families[m.Host.Addr().Is4()]
	if m.any() {
		return f.any
	}
	return f.one
}

func (m Map) element(label string) nft.Element {
	p := m.Pod.Port()
	return nft.Element{Key: m.key(), Comment: label, Data: string(m.Pod.Addr().AsSlice()) + string([]byte{byte(p >> 8), byte(p), 0, 0})}
}

// toMap reads an element of one of the maps of a family.
func toMap(v4 bool, e nft.Element) (m Map, ok bool) {
	port := func(s string) uint16 { return uint16(s[0])<<8 | uint16(s[1]) }
	size := 16
	host := netip.IPv6Unspecified()
	if v4 {
		size, host = 4, netip.IPv4Unspecified()
	}
	key := e.Key
	if len(key) == size+8 {
		host, _ = netip.AddrFromSlice([]byte(key[:size]))
		key = key[size:]
	}
	if len(key) != 8 || len(e.Data) != size+4 {
		return m, false
	}
	pod, _ := netip.AddrFromSlice([]byte(e.Data[:size]))
	return Map{Host: netip.AddrPortFrom(host, port(key[4:])), Pod: netip.AddrPortFrom(pod, port(e.Data[size:])), Proto: Proto(key[0])}, true
}

// name pads to a key of [nft.IfName].
func name(s string) string { return s + strings.Repeat("\x00", unix.IFNAMSIZ-len(s)) }

// record is the element of an owner: how many elements its ports have, its device, the addresses of its pod.
type record struct {
	n      int
	device string
	addrs  []netip.Addr
	label  string
}

func recordKey(label string) string { return name(mark.Hash(label)[:unix.IFNAMSIZ-1]) }

func (r record) element() nft.Element {
	texts := []string{"-", "-"}
	for i, a := range r.addrs {
		texts[i] = a.String()
	}
	return nft.Element{Key: recordKey(r.label), Comment: fmt.Sprintf("%d %s %s %s %s", r.n, dash(r.device), texts[0], texts[1], r.label)}
}

func toRecord(e nft.Element) (r record, ok bool) {
	parts := strings.SplitN(e.Comment, " ", 5)
	if len(parts) != 5 {
		return r, false
	}
	n, err := strconv.Atoi(parts[0])
	if err != nil {
		return r, false
	}
	r.n = n
	for _, s := range parts[2:4] {
		if a, err := netip.ParseAddr(s); err == nil {
			r.addrs = append(r.addrs, a)
		}
	}
	r.device, r.label = undash(parts[1]), parts[4]
	return r, true
}

// labelOf is the owner of an element of a set.
func labelOf(set string, e nft.Element) string {
	if set == owners {
		r, _ := toRecord(e)
		return r.label
	}
	return e.Comment
}
