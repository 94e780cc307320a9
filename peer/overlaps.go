package peer

import (
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/base/order"
)

// overlaps finds which ranges overlap. Any two prefixes are nested or apart, so what a range can overlap is itself, above
// it or below it: a clash is found by a walk up from it, because whoever holds a place leaves a mark on all above.
type overlaps struct {
	places []place // the distinct ranges, by address and then length
	at     []int32 // the place of range n
}

type place struct {
	prefix netip.Prefix
	up     int32 // the place of the smallest range around it, -1 for none
	held   int32 // the owner, -1 for none
	below  claim // one that is held within
}

// claim is what an owner holds: a place, or, where that is -1, an endpoint.
type claim struct{ owner, place int32 }

var none = claim{-1, -1}

// newOverlaps holds none of the ranges yet, which are numbered as they stand there. Invalid ones are of no consequence.
func newOverlaps(ranges []netip.Prefix) overlaps {
	type numbered struct {
		netip.Prefix
		n int32
	}
	inOrder := make([]numbered, len(ranges))
	v4, v6 := 0, len(ranges)
	for n, r := range ranges { // each family in its order: most lists are sorted then
		if r.Addr().Is4() {
			inOrder[v4] = numbered{r, int32(n)}
			v4++
		}
	}
	for n, r := range slices.Backward(ranges) {
		if !r.Addr().Is4() {
			v6--
			inOrder[v6] = numbered{r, int32(n)}
		}
	}
	order.By(inOrder, func(a, b numbered) int {
		if n := a.Addr().Compare(b.Addr()); n != 0 {
			return n
		}
		return a.Bits() - b.Bits()
	})
	o := overlaps{places: make([]place, 0, len(ranges)), at: make([]int32, len(ranges))}
	up := int32(-1)
	for _, r := range inOrder {
		if last := len(o.places) - 1; last < 0 || o.places[last].prefix != r.Prefix {
			for up >= 0 && !o.places[up].prefix.Contains(r.Addr()) {
				up = o.places[up].up
			}
			o.places = append(o.places, place{prefix: r.Prefix, up: up, held: -1, below: none})
			up = int32(last + 1)
		}
		o.at[r.n] = int32(len(o.places) - 1)
	}
	return o
}

// clash is what is held and overlaps a place.
func (o *overlaps) clash(at int32) claim {
	switch p := o.places[at]; {
	case !p.prefix.IsValid():
		return none
	case p.below != none:
		return p.below
	}
	return o.up(at)
}

// up is what is held at a place or above it.
func (o *overlaps) up(at int32) claim {
	for ; at >= 0; at = o.places[at].up {
		if owner := o.places[at].held; owner >= 0 {
			return claim{owner, at}
		}
	}
	return none
}

// inside is the place of the smallest range around an address, -1 for none.
func (o *overlaps) inside(a netip.Addr) int32 {
	if !a.IsValid() {
		return -1
	}
	n, _ := slices.BinarySearchFunc(o.places, a, func(p place, a netip.Addr) int {
		if c := p.prefix.Addr().Compare(a); c != 0 {
			return c
		}
		return -1 // the longest of those that begin with it is the last
	})
	at := int32(n - 1)
	for at >= 0 && !o.places[at].prefix.Contains(a) {
		at = o.places[at].up
	}
	return at
}

func (o *overlaps) hold(at, owner int32) {
	o.places[at].held = owner
	o.mark(o.places[at].up, claim{owner, at})
}

// mark tells a place and all above it what is held within.
func (o *overlaps) mark(at int32, c claim) {
	for ; at >= 0 && o.places[at].below == none; at = o.places[at].up {
		o.places[at].below = c
	}
}
