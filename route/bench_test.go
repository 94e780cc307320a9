//go:build linux

package route_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/route"
)

// many are n routes through br0.
func many(n int) (routes []route.Route) {
	for i := range n {
		routes = append(routes, route.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Link: "br0"})
	}
	return routes
}

func BenchmarkReconcile(b *testing.B) {
	for _, n := range []int{10, 1000} {
		ns := nstest.New(b)
		_, err := bridge.Ensure(b.Context(), ns, bridge.Bridge{Name: "br0"})
		require.NoError(b, err)
		table, want := route.Table{NS: ns}, many(n)
		b.Run(fmt.Sprint("from empty/", n), func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, table.Reconcile(b.Context(), slices.Values(want)))
				b.StopTimer()
				require.NoError(b, table.Reconcile(b.Context(), slices.Values(want[:0])))
				b.StartTimer()
			}
		})
		require.NoError(b, table.Reconcile(b.Context(), slices.Values(want)))
		b.Run(fmt.Sprint("without change/", n), func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, table.Reconcile(b.Context(), slices.Values(want)))
			}
		})
	}
}
