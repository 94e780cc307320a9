package flannel_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

func FuzzKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, key string) {
		l, err := flannel.ParseKey(key)
		if err != nil {
			require.Zero(t, l)
			return
		}
		again, err := flannel.ParseKey(l.Key())
		require.NoError(t, err)
		require.Equal(t, l, again)
	})
}

func FuzzAttrs(f *testing.F) {
	f.Fuzz(func(t *testing.T, value []byte) {
		a, err := flannel.ParseAttrs(value)
		if err != nil {
			require.Zero(t, a)
			return
		}
		b, err := json.Marshal(a)
		require.NoError(t, err)
		again, err := flannel.ParseAttrs(b)
		require.NoError(t, err)
		r, err := a.Reach()
		s, againErr := again.Reach()
		require.Equal(t, err == nil, againErr == nil)
		require.Equal(t, r, s)
		if err != nil || !a.Addr().IsValid() {
			return
		}
		w, err := flannel.EncodeReach(r)
		require.NoError(t, err)
		_, err = w.Reach()
		require.NoError(t, err)
	})
}

func FuzzConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := flannel.ParseConfig(doc)
		if err != nil {
			require.Zero(t, c)
			return
		}
		_, _ = c.Encapsulation()
		if c, err = c.Ranges(); err != nil {
			return
		}
		for _, family := range []flannel.Part{c.Part(4), c.Part(6)} {
			if n := family.Count(); n > 0 {
				require.True(t, family.Contains(family.Range(0)))
				if n < 1<<40 {
					require.True(t, family.Contains(family.Range(n-1)))
				}
			}
		}
	})
}
