package peer

import (
	"fmt"
	"net/netip"
	"unicode"
	"unicode/utf8"

	"github.com/cniblocks/cniblocks/inet"
)

const maxName = 253 // bytes, as a DNS name

func tooMany(key string, most int, remedy string) *Problem {
	return problem(key, "", fmt.Sprintf("has more than %d entries", most), "%s", remedy)
}

// Check finds what is wrong with a peer whoever the others are: what [Network.Sift] finds in it as the only one of a network
// with these prefixes, which have to be good.
func (p Peer) Check(within []netip.Prefix) Problems {
	found := checkPeer(p, within)
	for _, w := range found {
		if w.Peer = "peers[0]"; p.Name != "" {
			w.Peer = "peer " + quote(p.Name)
		}
	}
	return found
}

// checkPeer is Check without the name of the peer.
func checkPeer(p Peer, within []netip.Prefix) Problems {
	var found Problems
	add := func(w *Problem) {
		if w != nil {
			found = append(found, w)
		}
	}
	add(checkName(p.Name))
	for _, f := range inet.Families {
		if e := p.Endpoint(f); e != (Endpoint{}) {
			found = append(found, checkEndpoint(f, e)...)
		}
	}
	if !p.V4.Addr.IsValid() && !p.V6.Addr.IsValid() && p.V4.PublicKey == (PublicKey{}) && p.V6.PublicKey == (PublicKey{}) {
		add(problem("endpoint", "", "is missing", `state the node's address on the underlay (only a WireGuard peer, one with "publicKey", can do without)`))
	}
	switch n := len(p.Pods); {
	case n == 0:
		add(problem("pods", "", "is missing", `state the range of the node's pods, such as "10.244.1.0/24"`))
	case n > MaxPrefixes:
		add(tooMany("pods", MaxPrefixes, "state fewer, larger ones"))
		return found
	}
	for i, r := range p.Pods {
		add(checkPods(r, within))
		for _, q := range p.Pods[:i] {
			if r.Overlaps(q) {
				add(problem("pods", r.String(), "overlaps pods "+q.String()+" of the same peer", "state the larger one alone"))
			}
		}
		for _, f := range inet.Families {
			if a := p.Endpoint(f).Addr; a.IsValid() && r.Contains(a) {
				add(problem("endpoint", a.String(), "lies in its own pods "+r.String(),
					"state the node's address on the underlay; a tunnel cannot lead to its own end"))
			}
		}
	}
	return found
}

func checkName(s string) *Problem {
	const remedy = "use the host name of the node, or any other name without spaces of at most %d bytes"
	switch {
	case s == "":
		return problem("name", "", "is missing", remedy, maxName)
	case len(s) > maxName:
		return problem("name", quote(s), fmt.Sprintf("has %d bytes", len(s)), remedy, maxName)
	case !utf8.ValidString(s):
		return problem("name", quote(s), "is not UTF-8", remedy, maxName)
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return problem("name", quote(s), fmt.Sprintf("has the character %q in it", r), remedy, maxName)
		}
	}
	return nil
}

func checkEndpoint(f inet.Family, e Endpoint) Problems {
	var found Problems
	if e.Addr.IsValid() {
		if w := checkAddr(f, e.Addr); w != nil {
			found = append(found, w)
		}
	}
	if e.MAC != (inet.MAC{}) && !e.MAC.Unicast() {
		found = append(found, problem("mac", e.MAC.String(), "is a group address, which no device has", "state the MAC of the node's tunnel device"))
	}
	if e.VNI > MaxVNI {
		found = append(found, problem("vni", fmt.Sprint(e.VNI), "does not fit into 24 bits", "state a number from 1 to %d", MaxVNI))
	}
	return found
}

func checkAddr(f inet.Family, a netip.Addr) *Problem {
	const remedy = "state the address at which the other nodes reach this one"
	bad := func(reason string) *Problem { return problem("endpoint", a.String(), reason, remedy) }
	switch {
	case a.Is4In6():
		return problem("endpoint", a.String(), "is an IPv4 address mapped into IPv6", "write %s", a.Unmap())
	case inet.FamilyOf(a) != f:
		return problem("endpoint", a.String(), "is not an address of "+f.String()+", which it is given for", "give it for the family that it is of")
	case a.Zone() != "":
		return problem("endpoint", a.String(), "has a zone, which means something on one machine only", "state a global or unique local address")
	case a.IsUnspecified():
		return bad("is the unspecified address")
	case a.IsLoopback():
		return bad("is a loopback address")
	case a.IsMulticast():
		return bad("is a multicast address")
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return bad("is the broadcast address")
	case a.Is4() && a.As4()[0] == 0:
		return bad("is an address of \"this network\", 0.0.0.0/8, which is no node's")
	case a.Is6() && a.IsLinkLocalUnicast():
		return problem("endpoint", a.String(), "is a link-local address, which other links do not know", "state a global or unique local address")
	}
	return nil
}

// reserved are what no pod can be in.
var reserved = [...]struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "the addresses of \"this network\""},
	{netip.MustParsePrefix("127.0.0.0/8"), "the loopback addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "the multicast addresses"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("::/127"), "the unspecified and the loopback address"},
	{netip.MustParsePrefix("fe80::/10"), "the link-local addresses"},
	{netip.MustParsePrefix("ff00::/8"), "the multicast addresses"},
}

// checkRange judges a range alone, be it the network's or a peer's.
func checkRange(key string, r netip.Prefix) *Problem {
	const private = "state a range of your own, such as 10.244.0.0/16 or one below fd00::/8"
	switch {
	case !r.IsValid():
		return problem(key, r.String(), "is no range", private)
	case r.Addr().Is4In6():
		return problem(key, r.String(), "is made of IPv4 addresses mapped into IPv6", "write it as an IPv4 range")
	case r != r.Masked():
		return problem(key, r.String(), fmt.Sprintf("has bits set beyond its length of %d", r.Bits()), "write %s", r.Masked())
	}
	for _, no := range reserved {
		if r.Overlaps(no.prefix) {
			return problem(key, r.String(), fmt.Sprintf("overlaps %s, %s", no.prefix, no.what), private)
		}
	}
	return nil
}

func checkPods(r netip.Prefix, within []netip.Prefix) *Problem {
	if w := checkRange("pods", r); w != nil || len(within) == 0 {
		return w
	}
	of := false
	for _, n := range within {
		if n.Bits() <= r.Bits() && n.Contains(r.Addr()) {
			return nil
		}
		of = of || inet.FamilyOf(n.Addr()) == inet.FamilyOf(r.Addr())
	}
	if !of {
		return problem("pods", r.String(), fmt.Sprintf("is of %s, and network has no prefix of this family (%s)", inet.FamilyOf(r.Addr()), list(within, netip.Prefix.String)),
			"add one to network, or leave the range out")
	}
	return problem("pods", r.String(), "lies outside of network "+list(within, netip.Prefix.String), "choose a range within, or extend network")
}
