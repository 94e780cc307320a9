//go:build linux

package overlay

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// table holds values by key, in the order in which they came; the order changes when one is removed.
type table[K comparable, V any] struct {
	items []V
	slots []int32 // open addressing: the place of a value plus 1, 0 is free; at least half of them are
	key   func(*V) K
	hash  func(K) uint64
	size  int     // how many are expected once there is one
	order []int32 // places of the values in the order of the last dump, which the next one mostly has too
}

func newTable[K comparable, V any](size int, key func(*V) K, hash func(K) uint64) *table[K, V] {
	return &table[K, V]{size: size, key: key, hash: hash}
}

func (t *table[K, V]) rehash(size int) {
	t.slots = make([]int32, 8<<bits.Len(uint(size/4)))
	for i := range t.items {
		slot, _ := t.find(t.key(&t.items[i]))
		t.slots[slot] = int32(i + 1)
	}
}

func (t *table[K, V]) home(k K) int { return int(t.hash(k) & uint64(len(t.slots)-1)) }

// next is the slot after one, and after the last the first.
func (t *table[K, V]) next(slot int) int { return (slot + 1) & (len(t.slots) - 1) }

// find returns the slot of a key, and the place of its value; -1 if there is none, and the slot is free for it.
func (t *table[K, V]) find(k K) (slot, place int) {
	if t.slots == nil {
		return 0, -1
	}
	for slot = t.home(k); ; slot = t.next(slot) {
		place = int(t.slots[slot]) - 1
		if place < 0 || t.key(&t.items[place]) == k {
			return slot, place
		}
	}
}

func (t *table[K, V]) has(k K) bool {
	_, place := t.find(k)
	return place >= 0
}

func (t *table[K, V]) get(k K) (v V, ok bool) {
	if _, place := t.find(k); place >= 0 {
		return t.items[place], true
	}
	return v, false
}

// put sets the value of its key.
func (t *table[K, V]) put(v *V) {
	if t.slots == nil {
		t.items = make([]V, 0, t.size)
		t.rehash(t.size)
	}
	slot, place := t.find(t.key(v))
	if place >= 0 {
		t.items[place] = *v
		return
	}
	t.items = append(t.items, *v)
	t.slots[slot] = int32(len(t.items))
	if 2*len(t.items) > len(t.slots) {
		t.rehash(len(t.items))
	}
}

func (t *table[K, V]) remove(k K) {
	slot, place := t.find(k)
	if place < 0 {
		return
	}
	t.free(slot)
	last := len(t.items) - 1
	if place != last {
		moved, _ := t.find(t.key(&t.items[last]))
		t.slots[moved], t.items[place] = int32(place+1), t.items[last]
	}
	t.items = slices.Delete(t.items, last, last+1)
}

// free empties a slot, and moves those after it that then would not be found.
func (t *table[K, V]) free(slot int) {
	for at := t.next(slot); t.slots[at] != 0; at = t.next(at) {
		home := t.home(t.key(&t.items[t.slots[at]-1]))
		if mask := len(t.slots) - 1; (at-home)&mask >= (at-slot)&mask {
			t.slots[slot] = t.slots[at]
			slot = at
		}
	}
	t.slots[slot] = 0
}

// compare tells what to set and what to remove so that haves become what the table holds. They may hold foreign values, which judge
// tells: those stay, and one that differs from what is wanted in its place is reported as a conflict. What is to be set counts
// until the table changes.
func (t *table[K, V]) compare(judge judge[K, V], haves ...[]V) (set, remove []V) {
	seen := make([]bool, len(t.items))
	missing := len(t.items)
	settle := func(i int32) {
		if !seen[i] {
			seen[i] = true
			missing--
		}
	}
	n, order := 0, t.order
	t.order = make([]int32, 0, len(t.items))
	for _, have := range haves {
		for j := range have {
			h := &have[j]
			if n < len(order) && int(order[n]) < len(t.items) && judge.same(h, &t.items[order[n]]) {
				settle(order[n])
				t.order = append(t.order, order[n])
				n++
				continue
			}
			_, place := t.find(t.key(h))
			i, wanted := int32(place), place >= 0
			if wanted {
				t.order = append(t.order, i)
			}
			n++
			switch {
			case wanted && judge.same(h, &t.items[i]):
				settle(i)
			case wanted && !judge.ours(h):
				settle(i)
				judge.conflict(h, &t.items[i])
			case wanted && judge.replaces(h, &t.items[i]):
			case judge.ours(h):
				remove = append(remove, *h)
			}
		}
	}
	switch missing {
	case 0:
		return nil, remove
	case len(t.items):
		return slices.Clip(t.items), remove
	}
	set = make([]V, 0, missing)
	for i, v := range t.items {
		if !seen[i] {
			set = append(set, v)
		}
	}
	return set, remove
}

// judge knows what a table cannot know of its values.
type judge[K comparable, V any] struct {
	ours     func(have *V) bool
	same     func(have, want *V) bool // of the key too
	replaces func(have, want *V) bool // setting want overwrites have
	conflict func(have, want *V)
}

// mix makes of two words one whose every bit depends on all of theirs.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xbf58476d1ce4e5b9)
	return hi ^ lo
}

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return mix(binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:]))
}
