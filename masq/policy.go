package masq

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/sources"
)

// KubeMark is the bit of a packet's mark by which kube-proxy says that it masquerades the packet itself.
const KubeMark = 0x4000

// Policy says whose packets are masqueraded: those from Sources or Pods whose destination is not in Except, unless they
// bear [KubeMark]. The source port is drawn at random, so that connections which begin at once do not get the same one. A
// family without a source is left alone.
type Policy struct {
	// Network is the name of the network, the key of everything that a Backend keeps.
	Network string
	// Sources are the addresses that pods of the network may have: the ranges of its address management less the gateways.
	// They may overlap.
	Sources []inet.Range
	// Except are destinations that see the pod's own address: the network's subnets, and what the administrator lists.
	// Multicast (224.0.0.0/4, ff00::/8) is always excepted.
	Except []netip.Prefix
	// Pods are single sources, each of one attachment, where the address management has no ranges. Forget removes them.
	Pods []Pod
}

// Of reports whether the policy, one that a backend lists, is that of the network: a name that comments cannot carry is
// listed as its beginning and a hash.
func (p Policy) Of(network string) bool {
	return p.Network == network || p.Network == mark.Name(network)
}

// Pod is an address of one attachment.
type Pod = forward.Pod

func (p Policy) validate() error {
	if p.Network == "" {
		return errors.New("SNAT: the network has no name")
	}
	if err := sources.Validate(p.Sources, p.pods()); err != nil {
		return fmt.Errorf("SNAT of network %q: %w", p.Network, err)
	}
	for _, e := range p.Except {
		if !e.IsValid() || e.Addr().Is4In6() || e.Addr().Zone() != "" {
			return fmt.Errorf("SNAT of network %q: excepted destination %q: want a prefix such as 192.0.2.0/24 or 2001:db8::/32", p.Network, e)
		}
	}
	return nil
}

// family is IPv4 or IPv6.
type family uint8

const (
	v4 family = 4
	v6 family = 6
)

var families = [...]family{v4, v6}

func (f family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

func (f family) has(a netip.Addr) bool { return a.Is4() == (f == v4) }

func (f family) multicast() inet.Range {
	if f == v4 {
		return inet.RangeOf(netip.MustParsePrefix("224.0.0.0/4"))
	}
	return inet.RangeOf(netip.MustParsePrefix("ff00::/8"))
}

// half is a policy's part of one family, wanted or in place.
type half = sources.Set

// half returns the part of a family in the form in which backends keep it.
func (p Policy) half(f family) half {
	h := sources.Of(inet.Family(f), p.Sources, p.pods())
	if h.Empty() {
		return h
	}
	var except []inet.Range
	for _, e := range p.Except {
		if f.has(e.Addr()) {
			except = append(except, inet.RangeOf(e))
		}
	}
	h.Except = sources.NewRanges(append(except, f.multicast())...)
	return h
}

// pods are the owners by their addresses.
func (p Policy) pods() map[netip.Addr]string {
	pods := map[netip.Addr]string{}
	for _, pod := range p.Pods {
		pods[pod.Addr] = pod.Owner
	}
	return pods
}

// policy is the way back.
func policyOf(network string, halves map[family]half) Policy {
	p := Policy{Network: network}
	for _, f := range families {
		h := halves[f]
		p.Sources = append(p.Sources, h.Ranges...)
		for _, e := range h.Except.Prefixes() {
			if !inet.RangeOf(e).Overlaps(f.multicast()) {
				p.Except = append(p.Except, e)
			}
		}
		for _, a := range order.Sorted(maps.Keys(h.Pods), netip.Addr.Compare) {
			p.Pods = append(p.Pods, Pod{Owner: h.Pods[a], Addr: a})
		}
	}
	return p
}
