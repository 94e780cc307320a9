package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// Range is an interval of addresses of one subnet. The JSON names are the keys of the host-local configuration. The zero
// value of each field but Subnet asks for the default that [Range.Canonical] fills in.
type Range struct {
	Subnet  netip.Prefix `json:"subnet"`
	Start   netip.Addr   `json:"rangeStart,omitzero"` // first address that is handed out
	End     netip.Addr   `json:"rangeEnd,omitzero"`   // last address that is handed out
	Gateway netip.Addr   `json:"gateway,omitzero"`    // never handed out; need not lie in the subnet
}

// Canonical checks r and fills in what is unset, as the reference does: Start is the first address after the subnet's
// own, End the last one (before the broadcast address in IPv4), Gateway the first address after the subnet's own. In subnets of
// one or two addresses (/31, /32, /127, /128), which the reference refuses, all of them are handed out and there is no
// gateway unless stated (RFC 3021, RFC 6164).
func (r Range) Canonical() (Range, error) {
	if err := checkSubnet(r.Subnet); err != nil {
		return Range{}, err
	}
	first, last := usable(r.Subnet)
	var err error
	if r.Start, err = inSubnet("rangeStart", r.Start, first, r.Subnet); err != nil {
		return Range{}, err
	}
	if r.End, err = inSubnet("rangeEnd", r.End, last, r.Subnet); err != nil {
		return Range{}, err
	}
	if r.End.Less(r.Start) {
		return Range{}, fmt.Errorf("rangeEnd %s is before rangeStart %s: swap them", r.End, r.Start)
	}
	switch {
	case !r.Gateway.IsValid():
		if hostBits(r.Subnet) >= 2 {
			r.Gateway = r.Subnet.Addr().Next()
		}
	case r.Gateway.Zone() != "" || r.Gateway.Unmap().Is4() != r.Subnet.Addr().Is4():
		return Range{}, fmt.Errorf("gateway %s is not of the family of subnet %s: give an address of that family, without a zone",
			r.Gateway, r.Subnet)
	default:
		r.Gateway = r.Gateway.Unmap()
		if err := CheckHost(r.Gateway, r.Subnet); err != nil {
			return Range{}, fmt.Errorf("gateway %w", err)
		}
	}
	if r.Start == r.End && r.Start == r.Gateway {
		return Range{}, fmt.Errorf("range %s has only the gateway's address: widen it, or state another gateway", r)
	}
	return r, nil
}

func checkSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("subnet is missing: give one such as 10.22.0.0/16 or fd00:22::/64")
	case p.Addr().Is4In6():
		return fmt.Errorf("subnet %s is IPv4 written as IPv6: write it as IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("subnet %s has host bits set: write %s", p, p.Masked())
	case p.Bits() > 0 && notUnicast(p.Addr()) != "":
		return fmt.Errorf("subnet %s is of %s: give one that hosts can have addresses of", p, notUnicast(p.Addr()))
	}
	return nil
}

// CheckHost fails if a cannot be the address of a host, or not of one in the subnet: the subnet's own and the broadcast
// address are no host's where the subnet has more than two addresses. The zero subnet is none.
func CheckHost(a netip.Addr, subnet netip.Prefix) error {
	what := notUnicast(a)
	if a.IsUnspecified() {
		what = "the unspecified address"
	}
	if what == "" && subnet.IsValid() && hostBits(subnet) >= 2 {
		switch {
		case a == subnet.Masked().Addr():
			what = "the own address of subnet " + subnet.Masked().String()
		case a.Is4() && a == fill(subnet.Masked().Addr(), hostBits(subnet)):
			what = "the broadcast address of subnet " + subnet.Masked().String()
		}
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s is %s, which no host can have: give the address of a host", a, what)
}

// notUnicast says what kind an address is that no interface but the loopback can have; empty if it may have it.
func notUnicast(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "the loopback"
	case a.IsMulticast():
		return "a multicast group"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}

func inSubnet(key string, a, unset netip.Addr, subnet netip.Prefix) (netip.Addr, error) {
	if !a.IsValid() {
		return unset, nil
	}
	if a = a.Unmap(); !subnet.Contains(a) {
		return a, fmt.Errorf("%s %s is not in subnet %s: give one of its addresses", key, a, subnet)
	}
	return a, nil
}

// usable returns the first and the last address that hosts of the subnet may have.
func usable(p netip.Prefix) (first, last netip.Addr) {
	first, last = p.Addr(), fill(p.Addr(), hostBits(p))
	if hostBits(p) < 2 {
		return first, last
	}
	if first.Is4() {
		last = last.Prev()
	}
	return first.Next(), last
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// fill sets the low bits of a.
func fill(a netip.Addr, bits int) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; bits > 0; i, bits = i-1, bits-8 {
		b[i] |= byte(0xff >> max(0, 8-bits))
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// Contains says whether a lies between Start and End of a canonical range. The gateway may.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.Start.BitLen() && a.Zone() == "" && !a.Less(r.Start) && !r.End.Less(a)
}

// Overlaps says whether two canonical ranges have an address in common.
func (r Range) Overlaps(o Range) bool {
	return r.Start.BitLen() == o.Start.BitLen() && !r.End.Less(o.Start) && !o.End.Less(r.Start)
}

// String is the first and the last address, joined by a hyphen.
func (r Range) String() string { return r.Start.String() + "-" + r.End.String() }

// size is the number of addresses, the gateway's included; [math.MaxInt] if there are more.
func (r Range) size() int {
	s, e := wide(r.Start), wide(r.End)
	if e[0] != s[0] || e[1]-s[1] >= math.MaxInt {
		return math.MaxInt
	}
	return int(e[1]-s[1]) + 1
}

// MaxRanges bounds the ranges of a network: each is compared with every other.
const MaxRanges = 1024

// Pool is a set of ranges of one family, in the order in which they are used up. An owner gets one address of it.
type Pool []Range

// Canonical makes every range of the pool canonical and checks that they are of one family and do not overlap.
func (p Pool) Canonical() (Pool, error) {
	if len(p) == 0 {
		return nil, errors.New("it has no range: give at least one with a subnet")
	}
	if len(p) > MaxRanges {
		return nil, tooMany(len(p))
	}
	out := make(Pool, len(p))
	for i, r := range p {
		c, err := r.Canonical()
		if err != nil {
			return nil, fmt.Errorf("range %d: %w", i, err)
		}
		if c.Subnet.Addr().Is4() != out[:i].is4(c) {
			return nil, fmt.Errorf("subnets %s and %s are of different families: put them in different sets", out[0].Subnet, c.Subnet)
		}
		for _, o := range out[:i] {
			if o.Overlaps(c) {
				return nil, fmt.Errorf("ranges %s and %s overlap: make one end before the other starts", o, c)
			}
		}
		out[i] = c
	}
	return out, nil
}

func tooMany(n int) error {
	return fmt.Errorf("%d ranges are more than %d: join neighbours, or use larger subnets", n, MaxRanges)
}

// is4 is the family of the pool, or of r while the pool is empty.
func (p Pool) is4(r Range) bool {
	if len(p) > 0 {
		r = p[0]
	}
	return r.Subnet.Addr().Is4()
}

// Range returns the range of a canonical pool that contains a.
func (p Pool) Range(a netip.Addr) (Range, bool) {
	for _, r := range p {
		if r.Contains(a) {
			return r, true
		}
	}
	return Range{}, false
}

// String lists the ranges, joined by commas.
func (p Pool) String() string {
	s := make([]string, len(p))
	for i, r := range p {
		s[i] = r.String()
	}
	return strings.Join(s, ",")
}

// Canonical makes pools canonical, each by [Pool.Canonical], and checks that no two of them overlap.
func Canonical(pools ...Pool) ([]Pool, error) {
	n := 0
	for _, p := range pools {
		n += len(p)
	}
	if n = max(n, len(pools)); n > MaxRanges {
		return nil, tooMany(n)
	}
	out := make([]Pool, len(pools))
	for i, p := range pools {
		c, err := p.Canonical()
		if err != nil {
			return nil, fmt.Errorf("range set %d: %w", i, err)
		}
		for j, o := range out[:i] {
			if a, b, ok := overlap(o, c); ok {
				return nil, fmt.Errorf("range set %d (%s) and range set %d (%s) overlap: make one end before the other starts", j, a, i, b)
			}
		}
		out[i] = c
	}
	return out, offersGateway(out)
}

// offersGateway fails if a range hands out the gateway of another one.
func offersGateway(pools []Pool) error {
	gateways := map[netip.Addr]Range{}
	for _, p := range pools {
		for _, r := range p {
			if r.Gateway.IsValid() && !r.Subnet.Contains(r.Gateway) {
				gateways[r.Gateway] = r
			}
		}
	}
	for g, of := range gateways {
		for _, p := range pools {
			if r, ok := p.Range(g); ok && r.Gateway != g {
				return fmt.Errorf("gateway %s of subnet %s is one of the addresses that range %s hands out: make it the gateway of both, or leave it out by rangeStart or rangeEnd", g, of.Subnet, r)
			}
		}
	}
	return nil
}

func overlap(p, q Pool) (a, b Range, ok bool) {
	for _, a := range p {
		for _, b := range q {
			if a.Overlaps(b) {
				return a, b, true
			}
		}
	}
	return
}
