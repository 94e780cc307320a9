//go:build linux

package spoof_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/spoof"
)

func BenchmarkAllowAndRevoke(b *testing.B) {
	nstest.Need(b, nstest.NFTBridge)
	ns := nstest.New(b)
	port := func(last byte) spoof.Port {
		return spoof.Port{Name: "veth" + string('0'+rune(last)), MAC: [6]byte{0x0a, 0x58, 10, 1, 0, last}, Owner: "cniblocks/pods/c/eth0"}
	}
	require.NoError(b, spoof.Allow(b.Context(), ns, port(1))) // one stays
	for b.Loop() {
		require.NoError(b, spoof.Allow(b.Context(), ns, port(2)))
		require.NoError(b, spoof.Revoke(b.Context(), ns, port(2).Name))
	}
}
