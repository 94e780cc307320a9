//go:build linux

package overlay

import "slices"

// table holds values by key, in the order in which they came; the order changes when one is removed.
type table[K comparable, V any] struct {
	items []V
	at    map[K]int32
	key   func(V) K
	order []int32 // places of the values in the order of the last dump, which the next one mostly has too
}

func newTable[K comparable, V any](size int, key func(V) K) *table[K, V] {
	return &table[K, V]{items: make([]V, 0, size), at: make(map[K]int32, size), key: key}
}

func (t *table[K, V]) get(k K) (V, bool) {
	if i, ok := t.at[k]; ok {
		return t.items[i], true
	}
	var none V
	return none, false
}

func (t *table[K, V]) put(v V) {
	k := t.key(v)
	if i, ok := t.at[k]; ok {
		t.items[i] = v
		return
	}
	t.at[k] = int32(len(t.items))
	t.items = append(t.items, v)
}

func (t *table[K, V]) remove(k K) {
	i, ok := t.at[k]
	if !ok {
		return
	}
	last := len(t.items) - 1
	if int(i) != last {
		t.items[i] = t.items[last]
		t.at[t.key(t.items[i])] = i
	}
	t.items = slices.Delete(t.items, last, last+1)
	delete(t.at, k)
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
			i, wanted := t.at[t.key(*h)]
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
