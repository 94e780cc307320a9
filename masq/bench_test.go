//go:build linux

package masq

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// reopen gives a namespace without sockets, as a fresh process has it.
func reopen(b *testing.B, ns *netns.NS) *netns.NS {
	b.Helper()
	fresh, err := netns.Open(nsPath(ns))
	require.NoError(b, err)
	return fresh
}

func BenchmarkEnsureWithoutChange(b *testing.B) {
	for name, open := range backends {
		b.Run(name, func(b *testing.B) {
			ns := nstest.New(b)
			be := open(b, ns)
			require.NoError(b, be.Ensure(b.Context(), dual("pods")))
			for b.Loop() {
				require.NoError(b, be.Ensure(b.Context(), dual("pods")))
			}
		})
	}
}

func BenchmarkEnsureWithoutChangeOnANewSocket(b *testing.B) {
	ns := nstest.New(b)
	require.NoError(b, NFT{ns}.Ensure(b.Context(), dual("pods")))
	for b.Loop() {
		fresh := reopen(b, ns)
		require.NoError(b, NFT{fresh}.Ensure(b.Context(), dual("pods")))
		require.NoError(b, fresh.Close())
	}
}

func BenchmarkFirstEnsure(b *testing.B) {
	for name, open := range backends {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				ns := nstest.New(b)
				be := open(b, ns)
				b.StartTimer()
				require.NoError(b, be.Ensure(b.Context(), dual("pods")))
			}
		})
	}
}

func BenchmarkOpenWhereNothingIsInPlace(b *testing.B) {
	ns := nstest.New(b)
	for b.Loop() {
		_, err := Open(b.Context(), ns, "")
		require.NoError(b, err)
	}
}

func BenchmarkForwardWithoutADrop(b *testing.B) {
	ns := nstest.New(b)
	for b.Loop() {
		require.NoError(b, forward.Passage{NS: ns}.Ensure(b.Context(), "pods", dual("").Sources))
	}
}

func BenchmarkRemoveAllWhereNothingIsInPlace(b *testing.B) {
	ns := nstest.New(b)
	for b.Loop() {
		require.NoError(b, RemoveAll(b.Context(), ns, "pods"))
	}
}
