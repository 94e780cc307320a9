//go:build linux

package addr_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/nstest"
)

func BenchmarkEnsureWithoutChange(b *testing.B) {
	ns := nstest.New(b)
	both := []netip.Prefix{netip.MustParsePrefix("192.0.2.53/32"), netip.MustParsePrefix("2001:db8::53/128")}
	require.NoError(b, addr.Ensure(b.Context(), ns, "lo", both...))
	for b.Loop() {
		require.NoError(b, addr.Ensure(b.Context(), ns, "lo", both...))
	}
}
