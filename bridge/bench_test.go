//go:build linux

package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// What an ADD asks of a bridge that is there.
func BenchmarkEnsureWithoutChange(b *testing.B) {
	ns := nstest.New(b)
	gateway := netip.MustParsePrefix("10.88.0.1/24")
	ensure := func() {
		br, err := bridge.Ensure(b.Context(), ns, bridge.Bridge{Name: "br0"})
		require.NoError(b, err)
		_, err = bridge.Gateways{NS: ns, Index: br.Index, Name: br.Name}.Ensure(b.Context(), false, bridge.GatewayAt(gateway))
		require.NoError(b, err)
	}
	ensure()
	for b.Loop() {
		ensure()
	}
}
