package order_test

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/order"
)

func TestListsAreSortedAsPackageSlicesSortsThem(t *testing.T) {
	t.Parallel()
	for n := range 200 {
		list, set := rand.Perm(n), map[int]bool{}
		for _, v := range list {
			set[v] = true
		}
		want := slices.Clone(list)
		slices.SortFunc(want, cmp.Compare)
		order.By(list, cmp.Compare)
		require.Equal(t, want, list)
		require.ElementsMatch(t, want, order.Sorted(maps.Keys(set), cmp.Compare))
		require.True(t, slices.IsSorted(order.Sorted(maps.Keys(set), cmp.Compare)))
	}
}
