//go:build linux

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// runOf is the run of a key in a table in memory.
func runOf(t table, k key) run {
	n, _ := parseHeader(t)
	r := run{start: k.home(n), n: n}
	for i := r.start; i < t.len() && t.at(i)[0] != 0; i++ {
		r.bytes = append(r.bytes, t.at(i)...)
	}
	return r
}

func TestATableFindsWhatWasPutInAndOnlyThatWhateverIsTakenOut(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	// Few homes that differ, so that the runs collide.
	narrow := func(n int) key {
		var k key
		k[0], k[1] = byte(n%7), 4
		k[9] = byte(n)
		return k
	}
	want := map[slot]bool{}
	for i := range 100 {
		want[slot{narrow(i / 2), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), identity{uint64(i), 1}, 2}] = true
	}
	all := slices.Collect(func(yield func(slot) bool) {
		for s := range want {
			if !yield(s) {
				return
			}
		}
	})
	table := newTable(all)
	require.ElementsMatch(t, all, table.all())
	for len(all) > 0 {
		i := random.IntN(len(all))
		gone := all[i]
		all = slices.Delete(all, i, i+1)
		r := runOf(table, gone.owner)
		after := r.without(func(s slot) bool { return s == gone })
		require.Len(t, after.bytes, len(r.bytes))
		copy(table[offset(r.start):], after.bytes)
		require.Len(t, table.all(), len(all))
		for _, s := range all {
			require.True(t, slices.Contains(runOf(table, s.owner).of(s.owner), s))
		}
		require.NotContains(t, runOf(table, gone.owner).of(gone.owner), gone)
	}
}

func TestBitsAreFoundInOrder(t *testing.T) {
	t.Parallel()
	b := &block{}
	for _, off := range []int{0, 7, 8, 300, 65535} {
		b.put(used, off, true)
	}
	b.put(stale, 7, true)
	var got []int
	for off := b.find(used, true, 0, 65535); off >= 0; off = b.find(used, true, off+1, 65535) {
		got = append(got, off)
	}
	require.Equal(t, []int{0, 7, 8, 300, 65535}, got)
	require.Equal(t, 9, b.find(used, false, 7, 9))
	require.Equal(t, -1, b.find(used, false, 7, 8))
	require.Equal(t, -1, b.find(used, true, 301, 65534))
	require.Equal(t, 4, b.live(0, 65535))
	require.Equal(t, 1, b.live(1, 8))
	require.Equal(t, 0, b.live(1, 7))
	for lo := range 20 {
		for hi := lo; hi < 20; hi++ {
			require.Equal(t, map[bool]int{true: 1}[lo == 0]+map[bool]int{true: 1}[lo <= 8 && hi >= 8], b.live(lo, hi), fmt.Sprint(lo, hi))
		}
	}
}
