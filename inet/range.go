package inet

import (
	"fmt"
	"net/netip"
)

// Range is the addresses from Start to End, both included.
type Range struct{ Start, End netip.Addr }

// RangeOf is the range of all addresses of a prefix.
func RangeOf(p netip.Prefix) Range {
	p = p.Masked()
	end := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		end[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(end)
	return Range{Start: p.Addr(), End: last}
}

// String writes the range as iptables(8) does, a single address alone.
func (r Range) String() string {
	if r.Start == r.End {
		return r.Start.String()
	}
	return r.Start.String() + "-" + r.End.String()
}

// Validate fails unless both addresses are set, plain, of one family, and in order.
func (r Range) Validate() error {
	switch {
	case !r.Start.IsValid() || !r.End.IsValid():
		return fmt.Errorf("range %s: both addresses must be set", r)
	case r.Start.BitLen() != r.End.BitLen():
		return fmt.Errorf("range %s: both addresses must be of one family", r)
	case r.Start.Is4In6() || r.End.Is4In6() || r.Start.Zone() != "" || r.End.Zone() != "":
		return fmt.Errorf("range %s: addresses must be plain, neither IPv4 within IPv6 nor with a zone", r)
	case r.End.Less(r.Start):
		return fmt.Errorf("range %s: the first address must not be above the last", r)
	}
	return nil
}

// Contains reports whether an address is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.Start.BitLen() && !a.Less(r.Start) && !r.End.Less(a)
}

// Overlaps reports whether an address is in both ranges.
func (r Range) Overlaps(o Range) bool {
	return r.Start.BitLen() == o.Start.BitLen() && !r.End.Less(o.Start) && !o.End.Less(r.Start)
}

// Without is the range less one address: one range, two, or none.
func (r Range) Without(a netip.Addr) (rest []Range) {
	if !r.Contains(a) {
		return []Range{r}
	}
	if r.Start.Less(a) {
		rest = append(rest, Range{Start: r.Start, End: a.Prev()})
	}
	if a.Less(r.End) {
		rest = append(rest, Range{Start: a.Next(), End: r.End})
	}
	return rest
}
