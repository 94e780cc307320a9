package cri

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAMessageIsReadBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	inner := message{}.str(1, "in").num(2, 7)
	m := message{}.str(1, "text").num(3, math.MaxUint64).list(16, []string{"a", "", "b"}).sub(2047, inner).str(4, "").num(5, 0)
	f, err := parse(m)
	require.NoError(t, err)
	require.Len(t, f, 6, "fields of the zero value are left out")
	require.Equal(t, "text", f.str(1))
	require.Equal(t, uint64(math.MaxUint64), f.num(3))
	require.Equal(t, [][]byte{[]byte("a"), {}, []byte("b")}, f.all(16))
	sub, err := f.sub(2047)
	require.NoError(t, err)
	require.Equal(t, "in", sub.str(1))
	require.Equal(t, uint64(7), sub.num(2))
	none, err := f.sub(99)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestFieldsOfUnknownTypesArePassedOver(t *testing.T) {
	t.Parallel()
	m := message{1<<3 | fixed8, 1, 2, 3, 4, 5, 6, 7, 8, 2<<3 | fixed4, 1, 2, 3, 4}
	f, err := parse(m.str(3, "x"))
	require.NoError(t, err)
	require.Equal(t, "x", f.str(3))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(message{}.str(1, "text").num(3, 1<<40).sub(2, nil)))
	f.Add([]byte{1<<3 | bytes, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{2<<3 | varint})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parse(b)
		if err != nil {
			require.Empty(t, got)
			return
		}
		var size int
		for _, x := range got {
			size += len(x.bytes)
		}
		require.LessOrEqual(t, size, len(b))
	})
}
