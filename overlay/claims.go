//go:build linux

package overlay

import (
	"cmp"
	"net/netip"
	"slices"
)

// claims are the ranges of the accepted peers, none of which overlap, in order.
type claims []claim

type claim struct {
	r     netip.Prefix
	owner string // name of the peer
}

func byRange(a, b claim) int {
	if c := a.r.Addr().Compare(b.r.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.r.Bits(), b.r.Bits())
}

// at finds the place of a range, and the claim that it overlaps with.
func (c claims) at(r netip.Prefix) (place int, clash *claim) {
	place, _ = slices.BinarySearchFunc(c, claim{r: r}, byRange)
	for _, i := range [...]int{place - 1, place} {
		if i >= 0 && i < len(c) && c[i].r.Overlaps(r) {
			return place, &c[i]
		}
	}
	return place, nil
}

// add takes a range that overlaps with none.
func (c *claims) add(r netip.Prefix, owner string) {
	i, _ := c.at(r)
	*c = slices.Insert(*c, i, claim{r, owner})
}

func (c *claims) remove(r netip.Prefix) {
	if i, found := slices.BinarySearchFunc(*c, claim{r: r}, byRange); found {
		*c = slices.Delete(*c, i, i+1)
	}
}

// disjoint reports whether no two ranges overlap; it sorts them.
func (c claims) disjoint() bool {
	slices.SortFunc(c, byRange)
	for i := 1; i < len(c); i++ {
		if c[i-1].r.Overlaps(c[i].r) {
			return false
		}
	}
	return true
}
