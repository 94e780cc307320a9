package sources

import (
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/order"
)

// Ranges is a set of addresses of one family: ranges in order that neither overlap nor touch.
type Ranges []inet.Range

// NewRanges is the set of all addresses in ranges, which may overlap.
func NewRanges(ranges ...inet.Range) Ranges {
	sorted := slices.Clone(ranges)
	order.By(sorted, func(a, b inet.Range) int { return a.Start.Compare(b.Start) })
	var out Ranges
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

// Union is the set of both.
func (s Ranges) Union(o Ranges) Ranges { return NewRanges(slices.Concat(s, o)...) }

// Minus is the ranges of s that are not as a whole within one of o.
func (s Ranges) Minus(o Ranges) Ranges {
	var out Ranges
	for _, r := range s {
		if !o.cover(r) {
			out = append(out, r)
		}
	}
	return out
}

func (s Ranges) cover(r inet.Range) bool {
	return slices.ContainsFunc(s, func(o inet.Range) bool { return !r.Start.Less(o.Start) && !o.End.Less(r.End) })
}

// Overlap is a range of s that shares an address with o.
func (s Ranges) Overlap(o Ranges) (inet.Range, bool) {
	for _, r := range s {
		for _, other := range o {
			if r.Overlaps(other) {
				return r, true
			}
		}
	}
	return inet.Range{}, false
}

// Prefixes writes the addresses as the fewest prefixes.
func (s Ranges) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range s {
		for at := r.Start; at.IsValid() && !r.End.Less(at); {
			bits := at.BitLen()
			for bits > 0 {
				wider := netip.PrefixFrom(at, bits-1)
				if wider.Masked().Addr() != at || r.End.Less(inet.RangeOf(wider).End) {
					break
				}
				bits--
			}
			p := netip.PrefixFrom(at, bits)
			out = append(out, p)
			at = inet.RangeOf(p).End.Next()
		}
	}
	return out
}
