package masq

import (
	"fmt"
	"net/netip"
	"slices"
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

func (r Range) validate() error {
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

func (r Range) overlaps(o Range) bool {
	return r.Start.BitLen() == o.Start.BitLen() && !r.End.Less(o.Start) && !o.End.Less(r.Start)
}

// spans is a set of addresses of one family: ranges in order that neither overlap nor touch.
type spans []Range

func newSpans(ranges ...Range) spans {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int { return a.Start.Compare(b.Start) })
	var out spans
	for _, r := range sorted {
		if n := len(out); n > 0 && (!out[n-1].End.Less(r.Start) || out[n-1].End.Next() == r.Start) {
			if out[n-1].End.Less(r.End) {
				out[n-1].End = r.End
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

func (s spans) union(o spans) spans { return newSpans(slices.Concat(s, o)...) }

// minus is the ranges of s that are not as a whole within one of o.
func (s spans) minus(o spans) spans {
	var out spans
	for _, r := range s {
		if !o.cover(r) {
			out = append(out, r)
		}
	}
	return out
}

func (s spans) cover(r Range) bool {
	return slices.ContainsFunc(s, func(o Range) bool { return !r.Start.Less(o.Start) && !o.End.Less(r.End) })
}

func (s spans) overlap(o spans) (Range, bool) {
	for _, r := range s {
		for _, other := range o {
			if r.overlaps(other) {
				return r, true
			}
		}
	}
	return Range{}, false
}

// prefixes writes the addresses as the fewest prefixes.
func (s spans) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range s {
		for at := r.Start; at.IsValid() && !r.End.Less(at); {
			bits := at.BitLen()
			for bits > 0 {
				wider := netip.PrefixFrom(at, bits-1)
				if wider.Masked().Addr() != at || r.End.Less(RangeOf(wider).End) {
					break
				}
				bits--
			}
			p := netip.PrefixFrom(at, bits)
			out = append(out, p)
			at = RangeOf(p).End.Next()
		}
	}
	return out
}
