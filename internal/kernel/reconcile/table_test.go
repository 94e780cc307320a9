//go:build linux

package reconcile

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATableTellsWhatToSetAndWhatToRemove(t *testing.T) {
	t.Parallel()
	type value struct {
		k, v    int
		foreign bool
	}
	r := rand.New(rand.NewPCG(3, 4))
	want := NewTable(0, func(v *value) int { return v.k }, func(k int) uint64 { return uint64(k % 7) })
	kernel, model := map[int]value{}, map[int]value{}
	for range 3000 {
		for range r.IntN(6) {
			if k := r.IntN(40); r.IntN(3) == 0 {
				want.Remove(k)
				delete(model, k)
			} else {
				v := value{k: k, v: r.IntN(3)}
				want.Put(&v)
				model[k] = v
			}
		}
		require.Len(t, want.Items, len(model))
		for k := range 40 {
			v, ok := want.Get(k)
			if expect, there := model[k]; v != expect || ok != there || want.Has(k) != there {
				t.Fatalf("%d is %v (%v), want %v (%v)", k, v, ok, expect, there)
			}
		}
		if k := r.IntN(40); r.IntN(3) == 0 {
			kernel[k] = value{k: k, v: r.IntN(3), foreign: r.IntN(2) == 0}
		}
		foreign := map[int]value{}
		var dump []value
		for k, v := range kernel {
			dump = append(dump, v)
			if v.foreign {
				foreign[k] = v
			}
		}
		var conflicts int
		set, remove := want.Compare(Judge[value]{
			Ours:     func(h *value) bool { return !h.foreign },
			Same:     func(h, w *value) bool { return h.k == w.k && h.v == w.v },
			Replaces: func(_, _ *value) bool { return true },
			Conflict: func(_, _ *value) { conflicts++ },
		}, dump[:len(dump)/2], dump[len(dump)/2:])
		for _, v := range remove {
			require.False(t, v.foreign)
			delete(kernel, v.k)
		}
		for _, v := range set {
			require.False(t, kernel[v.k].foreign)
			kernel[v.k] = v
		}
		blocked := 0
		for _, w := range want.Items {
			if f, ok := foreign[w.k]; ok {
				if f.v != w.v {
					blocked++
				}
				continue
			}
			require.Equal(t, w, kernel[w.k])
		}
		require.Equal(t, blocked, conflicts)
		for k, v := range kernel {
			if f, ok := foreign[k]; ok {
				require.Equal(t, f, v)
				continue
			}
			_, ok := want.Get(k)
			require.True(t, ok)
		}
	}
}

func TestSpreadYieldsEveryValueOnceAndTakesNeighboursApart(t *testing.T) {
	t.Parallel()
	for n := range 70 {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		var got []int
		for v := range spread(all) {
			got = append(got, *v)
		}
		if n == 10 {
			require.Equal(t, []int{0, 8, 4, 2, 6, 1, 9, 5, 3, 7}, got)
		}
		slices.Sort(got)
		require.True(t, slices.Equal(all, got), "%d: %v", n, got)
	}
	for range spread([]int{1, 2, 3}) {
		break
	}
}
