package peer

import (
	"errors"
	"iter"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// oneOrMore yields the values of a list, or the one value that is no list. Nothing comes of nothing.
func oneOrMore(v []byte) iter.Seq[[]byte] {
	switch {
	case absent(v):
		return func(func([]byte) bool) {}
	case v[0] == '[':
		return lazyjson.Elements(v)
	}
	return func(yield func([]byte) bool) { yield(v) }
}

func parsePrefix(key string, v []byte) (netip.Prefix, *Problem) {
	if v[0] != '"' {
		return netip.Prefix{}, problem(key, show(v), "is "+lazyjson.Kind(v)+", not a string", `write a range such as "10.244.1.0/24"`)
	}
	s := lazyjson.Unquote(v)
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return p, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return p, problem(key, quote(s), "is an address, not a range", "write its length too; that of this address alone is %s/%d", a, a.BitLen())
	}
	return p, problem(key, quote(s), "is not a range", `write an address and a length, such as "10.244.1.0/24"`)
}

func parseEndpoint(v []byte) (netip.Addr, *Problem) {
	if v[0] != '"' {
		return netip.Addr{}, problem("endpoint", show(v), "is "+lazyjson.Kind(v)+", not a string", `write an address such as "192.0.2.11"`)
	}
	s := lazyjson.Unquote(v)
	a, err := netip.ParseAddr(s)
	if err == nil {
		return a, nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return a, problem("endpoint", quote(s), "is an address with a port", `write "endpoint": %q, "port": %d`, ap.Addr(), ap.Port())
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return a, problem("endpoint", quote(s), "is a range, not an address", "write %s", p.Addr())
	}
	return a, problem("endpoint", quote(s), "is not an IP address", "write the node's address on the underlay; names are not looked up")
}

// Format writes the network as a peers document with a line for each peer, for people to read and for diff(1) to
// compare. [Parse] reads it back as it was, if it was valid.
func Format(n Network) []byte {
	b := append(make([]byte, 0, 64+160*len(n.Peers)), "{ "...)
	if len(n.Prefixes) > 0 {
		b = append(b, `"network": `...)
		b = append(appendList(b, n.Prefixes), ",\n  "...)
	}
	b = append(b, `"peers": [`...)
	for i, p := range n.Peers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPeer(append(b, "\n    "...), p)
	}
	return append(b, " ] }\n"...)
}

// MarshalJSON is [Format].
func (n Network) MarshalJSON() ([]byte, error) { return Format(n), nil }

// UnmarshalJSON is [Parse] where any bad peer is an error. Warnings are not told.
func (n *Network) UnmarshalJSON(data []byte) error {
	got, problems, err := Parse(data)
	bad, _ := problems.Split()
	if err := errors.Join(err, bad.Err()); err != nil {
		return err
	}
	*n = got
	return nil
}

// MarshalJSON writes the peer as it stands in a peers document.
func (p Peer) MarshalJSON() ([]byte, error) { return appendPeer(nil, p), nil }

// UnmarshalJSON reads a peer as it stands in a peers document. What cannot be read is an error; whether it makes sense
// is for [Network.Validate]. Warnings are not told.
func (p *Peer) UnmarshalJSON(data []byte) error {
	v, err := valid(data)
	if err != nil {
		return err
	}
	e := decodePeer(v)
	bad, _ := e.problems.Split()
	for _, w := range bad {
		if w.Peer = "peer"; e.Name != "" {
			w.Peer = "peer " + quote(e.Name)
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	*p = e.Peer
	return nil
}

func appendPeer(b []byte, p Peer) []byte {
	b = appendQuoted(append(b, `{ "name": `...), p.Name)
	var ends []netip.Addr
	for _, f := range inet.Families {
		if a := p.Endpoint(f).Addr; a.IsValid() {
			ends = append(ends, a)
		}
	}
	if len(ends) > 0 {
		b = appendList(append(b, `, "endpoint": `...), ends)
	}
	if len(p.Pods) > 0 {
		b = appendList(append(b, `, "pods": `...), p.Pods)
	}
	b = appendPerFamily(b, "mac", p.Reach, func(e Endpoint) any { return e.MAC })
	b = appendPerFamily(b, "publicKey", p.Reach, func(e Endpoint) any { return e.PublicKey })
	b = appendPerFamily(b, "port", p.Reach, func(e Endpoint) any { return e.Port })
	b = appendPerFamily(b, "vni", p.Reach, func(e Endpoint) any { return e.VNI })
	if p.Encap != "" {
		b = appendQuoted(append(b, `, "encap": `...), p.Encap)
	}
	return append(b, " }"...)
}

// appendPerFamily writes a value once if it stands for all families of the endpoints, else under the family's name.
func appendPerFamily(b []byte, key string, r Reach, get func(Endpoint) any) []byte {
	zero, v4, v6 := get(Endpoint{}), get(r.V4), get(r.V6)
	if v4 == zero && v6 == zero {
		return b
	}
	b = append(append(append(b, `, "`...), key...), `": `...)
	of := r.families()
	switch {
	case len(of) == 2 && v4 == v6, of[0] == inet.IPv4 && len(of) == 1 && v6 == zero:
		return appendValue(b, v4)
	case of[0] == inet.IPv6 && v4 == zero:
		return appendValue(b, v6)
	}
	b = append(b, "{ "...)
	if v4 != zero {
		b = appendValue(append(b, `"ipv4": `...), v4)
	}
	if v6 != zero {
		if v4 != zero {
			b = append(b, ", "...)
		}
		b = appendValue(append(b, `"ipv6": `...), v6)
	}
	return append(b, " }"...)
}

func appendValue(b []byte, v any) []byte {
	j, _ := lazyjson.Marshal(v) // numbers and texts have no error
	return append(b, j...)
}

func appendQuoted(b []byte, s string) []byte { return appendValue(b, s) }

func appendList[T interface{ AppendTo([]byte) []byte }](b []byte, all []T) []byte {
	if len(all) == 1 {
		return append(all[0].AppendTo(append(b, '"')), '"')
	}
	b = append(b, '[')
	for i, v := range all {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(v.AppendTo(append(b, '"')), '"')
	}
	return append(b, ']')
}
