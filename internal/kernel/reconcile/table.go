//go:build linux

package reconcile

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// Table holds the wanted values by key, in the order in which they came; the order changes when one is removed.
type Table[K, V comparable] struct {
	Items []V     // to be read only
	slots []int32 // open addressing: the place of a value plus 1, 0 is free; at least half of them are
	Key   func(*V) K
	hash  func(K) uint64
	size  int     // how many are expected once there is one
	order []int32 // places of the values in the order of the last dump, which the next one mostly has too
}

// NewTable makes an empty table; size is how many values are expected once there is one.
func NewTable[K, V comparable](size int, key func(*V) K, hash func(K) uint64) *Table[K, V] {
	return &Table[K, V]{size: size, Key: key, hash: hash}
}

func (t *Table[K, V]) rehash(size int) {
	t.slots = make([]int32, 8<<bits.Len(uint(size/4)))
	for i := range t.Items {
		slot, _ := t.find(t.Key(&t.Items[i]))
		t.slots[slot] = int32(i + 1)
	}
}

// home is where the search for a key begins.
func (t *Table[K, V]) home(k K) int { return int(t.hash(k) & uint64(len(t.slots)-1)) }

// next is the slot after one, and after the last the first.
func (t *Table[K, V]) next(slot int) int { return (slot + 1) & (len(t.slots) - 1) }

// find returns the slot of a key, and the place of its value; -1 if there is none, and the slot is free for it.
func (t *Table[K, V]) find(k K) (slot, place int) {
	if t.slots == nil {
		return 0, -1
	}
	for slot = t.home(k); ; slot = t.next(slot) {
		place = int(t.slots[slot]) - 1
		if place < 0 || t.Key(&t.Items[place]) == k {
			return slot, place
		}
	}
}

// Has reports whether there is a value of that key.
func (t *Table[K, V]) Has(k K) bool {
	_, place := t.find(k)
	return place >= 0
}

// Get is the value of a key.
func (t *Table[K, V]) Get(k K) (v V, ok bool) {
	if _, place := t.find(k); place >= 0 {
		return t.Items[place], true
	}
	return v, false
}

// Put sets the value of its key.
func (t *Table[K, V]) Put(v *V) {
	if t.slots == nil {
		t.Items = make([]V, 0, t.size)
		t.rehash(t.size)
	}
	slot, place := t.find(t.Key(v))
	if place >= 0 {
		t.Items[place] = *v
		return
	}
	t.Items = append(t.Items, *v)
	t.slots[slot] = int32(len(t.Items))
	if 2*len(t.Items) > len(t.slots) {
		t.rehash(len(t.Items))
	}
}

// PutAll sets the values of their keys.
func (t *Table[K, V]) PutAll(all []V) {
	for i := range all {
		t.Put(&all[i])
	}
}

func (t *Table[K, V]) removeAll(all []V) {
	for i := range all {
		t.Remove(t.Key(&all[i]))
	}
}

// Remove takes a value away, if it is there.
func (t *Table[K, V]) Remove(k K) {
	slot, place := t.find(k)
	if place < 0 {
		return
	}
	t.free(slot)
	last := len(t.Items) - 1
	if place != last {
		moved, _ := t.find(t.Key(&t.Items[last]))
		t.slots[moved], t.Items[place] = int32(place+1), t.Items[last]
	}
	t.Items = slices.Delete(t.Items, last, last+1)
}

// free empties a slot, and moves those after it that then would not be found.
func (t *Table[K, V]) free(slot int) {
	for at := t.next(slot); t.slots[at] != 0; at = t.next(at) {
		home := t.home(t.Key(&t.Items[t.slots[at]-1]))
		if mask := len(t.slots) - 1; (at-home)&mask >= (at-slot)&mask {
			t.slots[slot] = t.slots[at]
			slot = at
		}
	}
	t.slots[slot] = 0
}

// Compare tells what to set and what to remove so that haves become what the table holds. They may hold foreign values, which judge
// tells: those stay, and one that differs from what is wanted in its place is reported as a conflict. What is to be set counts
// until the table changes.
func (t *Table[K, V]) Compare(judge Judge[V], haves ...[]V) (set, remove []V) {
	seen := make([]bool, len(t.Items))
	missing := len(t.Items)
	settle := func(i int32) {
		if !seen[i] {
			seen[i] = true
			missing--
		}
	}
	n, order := 0, t.order
	t.order = make([]int32, 0, len(t.Items))
	for _, have := range haves {
		for j := range have {
			h := &have[j]
			if n < len(order) && int(order[n]) < len(t.Items) && judge.Same(h, &t.Items[order[n]]) {
				settle(order[n])
				t.order = append(t.order, order[n])
				n++
				continue
			}
			_, place := t.find(t.Key(h))
			i, wanted := int32(place), place >= 0
			if wanted {
				t.order = append(t.order, i)
			}
			n++
			switch {
			case wanted && judge.Same(h, &t.Items[i]):
				settle(i)
			case wanted && !judge.Ours(h):
				settle(i)
				judge.Conflict(h, &t.Items[i])
			case wanted && judge.Replaces(h, &t.Items[i]):
			case judge.Ours(h):
				remove = append(remove, *h)
			}
		}
	}
	switch missing {
	case 0:
		return nil, remove
	case len(t.Items):
		return slices.Clip(t.Items), remove
	}
	set = make([]V, 0, missing)
	for i, v := range t.Items {
		if !seen[i] {
			set = append(set, v)
		}
	}
	return set, remove
}

// Replace is the difference that new values in place of old ones make. It reports false if one of the new would overwrite a
// value that is not among the old, or another of the new.
func (t *Table[K, V]) Replace(old, wanted []V) (set, remove []V, ok bool) {
	had, next := make(map[K]bool, len(old)), make(map[K]bool, len(wanted))
	for i := range old {
		had[t.Key(&old[i])] = true
	}
	ok = true
	for i := range wanted {
		w := &wanted[i]
		k := t.Key(w)
		h, there := t.Get(k)
		if there && !had[k] || next[k] {
			ok = false
		}
		next[k] = true
		if !there || h != *w {
			set = append(set, *w)
		}
	}
	for k := range had {
		if h, there := t.Get(k); there && !next[k] {
			remove = append(remove, h)
		}
	}
	return set, remove, ok
}

// Judge knows what a table cannot know of its values.
type Judge[V any] struct {
	Ours     func(have *V) bool
	Same     func(have, want *V) bool // of the key too
	Replaces func(have, want *V) bool // setting want overwrites have
	Conflict func(have, want *V)
}

// Mix makes of two words one whose every bit depends on all of theirs.
func Mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xbf58476d1ce4e5b9)
	return hi ^ lo
}

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return Mix(binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:]))
}
