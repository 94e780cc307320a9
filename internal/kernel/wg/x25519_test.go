package wg_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/wg"
)

// agrees compares with the standard library.
func agrees(t *testing.T, k wg.Key) {
	t.Helper()
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	require.NoError(t, err)
	require.Equal(t, p.PublicKey().Bytes(), func() []byte { b := wg.PublicKey(k); return b[:] }(), "%x", k)
}

// extremes are keys of equal bytes, of single bits, and of all bits but one.
func extremes() (all []wg.Key) {
	for v := range 256 {
		var same, one, but wg.Key
		for i := range same {
			same[i], but[i] = byte(v), 0xff
		}
		one[v/8] |= 1 << (v % 8)
		but[v/8] &^= 1 << (v % 8)
		all = append(all, same, one, but)
	}
	return all
}

func TestThePublicKeyIsThatOfTheStandardLibrary(t *testing.T) {
	t.Parallel()
	for _, k := range extremes() {
		agrees(t, k)
	}
	for range 2000 {
		var k wg.Key
		_, err := rand.Read(k[:])
		require.NoError(t, err)
		agrees(t, k)
	}
}

func FuzzPublicKey(f *testing.F) {
	for _, k := range extremes()[:9] {
		f.Add(k[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var k wg.Key
		copy(k[:], b)
		agrees(t, k)
	})
}

func BenchmarkPublicKey(b *testing.B) {
	for b.Loop() {
		wg.PublicKey(wg.Key{8})
	}
}
