package mark_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/mark"
)

func TestALabelFitsACommentAndTellsNamesApart(t *testing.T) {
	t.Parallel()
	require.Equal(t, "pods", mark.Label("pods", 40))
	require.Equal(t, "a b", mark.Label("a b", 40))
	seen := map[string]bool{}
	for _, name := range []string{"", " a", "a ", `a"b`, `a\b`, "a\nb", "käse", strings.Repeat("x", 41), strings.Repeat("x", 42)} {
		l := mark.Label(name, 40)
		require.LessOrEqual(t, len(l), 40)
		require.Equal(t, l, mark.Label(l, 40))
		require.NotContains(t, l, `"`)
		require.False(t, seen[l])
		seen[l] = true
	}
	require.True(t, strings.HasPrefix(mark.Label(strings.Repeat("x", 99), 40), strings.Repeat("x", mark.LabelKept(40))))
}

func TestTheNetworkOfACommentIsFound(t *testing.T) {
	t.Parallel()
	network, ok := mark.Network(mark.Comment("pods"))
	require.True(t, ok)
	require.Equal(t, "pods", network)
	for _, other := range []string{"", "cniblocks", "cniblocksx pods", "their pods"} {
		_, ok = mark.Network(other)
		require.False(t, ok, other)
	}
}

func TestNamesThatAreNoIdentifiersAreHashes(t *testing.T) {
	t.Parallel()
	require.Equal(t, "src4-my.pods_1", mark.Set("src4", "my.pods_1"))
	for _, odd := range []string{"", "a b", "käse", strings.Repeat("x", 65)} {
		require.Equal(t, "src4/"+mark.Hash(odd), mark.Set("src4", odd))
		require.LessOrEqual(t, len(mark.Chain(odd)), 28)
	}
}
