//go:build linux

package ipam

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var slash16 = Pool{{Subnet: netip.MustParsePrefix("10.22.0.0/16")}}

// fillDir writes n lease files as the reference would.
func fillDir(tb testing.TB, d Dir, p Pool, n int) {
	tb.Helper()
	p, err := p.Canonical()
	require.NoError(tb, err)
	dir := filepath.Join(d.DataDir, d.Network)
	require.NoError(tb, os.MkdirAll(dir, 0o755))
	a := p[0].Start
	for i := range n {
		for a == p[0].Gateway {
			a = a.Next()
		}
		content := fmt.Sprintf("%064x\r\neth0", i)
		require.NoError(tb, os.WriteFile(filepath.Join(dir, a.String()), []byte(content), 0o600))
		a = a.Next()
	}
}

func BenchmarkAllocateRelease(b *testing.B) {
	for _, n := range []int{0, 10_000, 60_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			a := Allocator{Dir{DataDir: b.TempDir(), Network: "bench"}, []Pool{slash16}}
			fillDir(b, a.Dir, slash16, n)
			ctx, o := b.Context(), Owner{strings.Repeat("z", 64), "eth0"}
			_, err := a.Available(ctx)
			require.NoError(b, err)
			for b.Loop() {
				_, err := a.Allocate(ctx, o)
				require.NoError(b, err)
				require.NoError(b, a.Release(ctx, o))
			}
		})
	}
}

func BenchmarkReleaseOfNothing(b *testing.B) {
	for _, n := range []int{0, 60_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			d := Dir{DataDir: b.TempDir(), Network: "bench"}
			fillDir(b, d, slash16, n)
			ctx, o := b.Context(), Owner{"nobody", "eth0"}
			require.NoError(b, d.Release(ctx, o))
			for b.Loop() {
				require.NoError(b, d.Release(ctx, o))
			}
		})
	}
}

func BenchmarkLastFreeAddressOfASlash16(b *testing.B) {
	a := Allocator{Dir{DataDir: b.TempDir(), Network: "bench"}, []Pool{slash16}}
	fillDir(b, a.Dir, slash16, 65532)
	ctx, o := b.Context(), Owner{strings.Repeat("z", 64), "eth0"}
	_, err := a.Available(ctx)
	require.NoError(b, err)
	for b.Loop() {
		_, err := a.Allocate(ctx, o)
		require.NoError(b, err)
		require.NoError(b, a.Release(ctx, o))
	}
}

func BenchmarkAvailable(b *testing.B) {
	a := Allocator{Dir{DataDir: b.TempDir(), Network: "bench"}, []Pool{slash16}}
	fillDir(b, a.Dir, slash16, 60_000)
	ctx := b.Context()
	_, err := a.Available(ctx)
	require.NoError(b, err)
	for b.Loop() {
		_, err := a.Available(ctx)
		require.NoError(b, err)
	}
}

func BenchmarkFirstReadingOfADirectory(b *testing.B) {
	for _, n := range []int{250, 60_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			d := Dir{DataDir: b.TempDir(), Network: "bench"}
			fillDir(b, d, slash16, n)
			for b.Loop() {
				require.NoError(b, os.RemoveAll(filepath.Join(d.DataDir, ".cniblocks")))
				require.NoError(b, d.Release(b.Context(), Owner{"nobody", "eth0"}))
			}
		})
	}
}

func BenchmarkReadingAgain(b *testing.B) {
	d := Dir{DataDir: b.TempDir(), Network: "bench"}
	fillDir(b, d, slash16, 60_000)
	for b.Loop() {
		_, err := d.Leases(b.Context())
		require.NoError(b, err)
	}
}
