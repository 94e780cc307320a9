package etcd

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/big"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// choose returns a free range for each family of the network: the first of those that are preferred, else the first at or
// after a place that depends on the node's name, so that nodes that come up together rarely want the same one, and one
// that comes back after its lease ran out mostly finds what it had.
func choose(c flannel.Config, node string, preferred, taken []netip.Prefix) (flannel.Lease, error) {
	var l flannel.Lease
	for _, f := range inet.Families {
		part := c.Part(f)
		if part.Count() == 0 {
			continue
		}
		r, err := pick(part, f, node, preferred, taken)
		if err != nil {
			return flannel.Lease{}, err
		}
		if f == inet.IPv4 {
			l.Subnet = r
		} else {
			l.IPv6Subnet = r
		}
	}
	return l, nil
}

func pick(part flannel.Part, f inet.Family, node string, preferred, taken []netip.Prefix) (netip.Prefix, error) {
	for _, r := range preferred {
		if part.Contains(r) && !slices.ContainsFunc(taken, r.Overlaps) {
			return r, nil
		}
	}
	gone := spans(part, taken)
	h := fnv.New64a()
	h.Write([]byte(node))
	start := int(h.Sum64() % uint64(part.Count()))
	n, ok := free(gone, start, part.Count())
	if !ok {
		if n, ok = free(gone, 0, start); !ok {
			return netip.Prefix{}, full(part, f)
		}
	}
	return part.Range(n), nil
}

func full(part flannel.Part, f inet.Family) error {
	key := "Network"
	if f == inet.IPv6 {
		key = "IPv6Network"
	}
	return fmt.Errorf("the network is full: all %d ranges of /%d in %s %s are taken: extend %s, or delete the leases of nodes that are gone for good",
		part.Count(), part.Len, key, part.Network, key)
}

// span is a stretch of range numbers, both ends in it.
type span struct{ first, last int }

// spans are the numbers of the ranges that are not free, in order.
func spans(part flannel.Part, taken []netip.Prefix) []span {
	var all []span
	for _, r := range taken {
		if inet.FamilyOf(r.Addr()) == inet.FamilyOf(part.Min) && r.Overlaps(part.Network) {
			all = append(all, span{number(part, r.Masked().Addr()), number(part, last(r))})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	return all
}

// free is the first number from from on, below end, that is in none of the spans.
func free(gone []span, from, end int) (int, bool) {
	for _, s := range gone {
		if from < s.first {
			break
		}
		if from <= s.last {
			if s.last >= end {
				return 0, false
			}
			from = s.last + 1
		}
	}
	return from, from < end
}

// number is that of the range which holds an address; -1 before the first, [flannel.Part.Count] after the last.
func number(part flannel.Part, a netip.Addr) int {
	if a.Less(part.Min) {
		return -1
	}
	n := new(big.Int).Sub(new(big.Int).SetBytes(a.AsSlice()), new(big.Int).SetBytes(part.Min.AsSlice()))
	n.Rsh(n, uint(a.BitLen()-part.Len))
	if !n.IsInt64() {
		return part.Count()
	}
	return int(min(n.Int64(), int64(part.Count())))
}

func last(r netip.Prefix) netip.Addr {
	b := r.Addr().AsSlice()
	for i := r.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
