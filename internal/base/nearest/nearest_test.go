package nearest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

var keys = []string{"name", "endpoint", "pods", "mac", "publicKey", "port", "vni", "peersFile", "isGateway", "isDefaultGateway", "mtu"}

func TestTheNearestKnownWordIsFound(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"endpiont":     "endpoint", // swapped
		"endpont":      "endpoint", // missing
		"endpoints":    "endpoint", // too many
		"endpoimt":     "endpoint", // wrong
		"pubkey":       "",         // four letters away: no guess
		"publickey":    "publicKey",
		"public_key":   "publicKey",
		"PUBLIC-KEY":   "publicKey",
		"isgateway":    "isGateway",
		"isDefaultGW":  "",
		"peersfile":    "peersFile",
		"peerFile":     "peersFile",
		"nam":          "name",
		"ports":        "port",
		"mac":          "mac",
		"Mac":          "mac",
		"vn":           "vni",
		"prt":          "port",
		"completely":   "",
		"":             "",
		"_":            "",
		"x":            "",
		"endpoint\x00": "endpoint",
		"énde":         "",
		"éndpoint":     "endpoint",
	} {
		got, ok := nearest.Of(word, slices.Values(keys))
		require.Equal(t, want, got, "word %q", word)
		require.Equal(t, want != "", ok, "word %q", word)
	}
}

func TestTheOrderOfTheKnownWordsDoesNotMatter(t *testing.T) {
	t.Parallel()
	known := []string{"bat", "cat", "hat", "rat"}
	for range known {
		known = append(known[1:], known[0])
		got, ok := nearest.Of("xat", slices.Values(known))
		require.True(t, ok)
		require.Equal(t, "bat", got)
	}
}

func TestALongWordIsNotCompared(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 1<<20)
	_, ok := nearest.Of(long, slices.Values([]string{long, "a"}))
	require.False(t, ok)
	_, ok = nearest.Of("aaa", slices.Values([]string{long}))
	require.False(t, ok)
	_, ok = nearest.Of(strings.Repeat("a", 63), slices.Values([]string{strings.Repeat("a", 63)}))
	require.True(t, ok)
}

func TestWithoutKnownWordsThereIsNone(t *testing.T) {
	t.Parallel()
	_, ok := nearest.Of("name", slices.Values([]string(nil)))
	require.False(t, ok)
	_, ok = nearest.Of("name", slices.Values([]string{"", "-"}))
	require.False(t, ok)
}

func FuzzAKnownWordIsItsOwnNearest(f *testing.F) {
	for _, k := range keys {
		f.Add(k, "other")
	}
	f.Fuzz(func(t *testing.T, word, other string) {
		got, ok := nearest.Of(word, slices.Values([]string{other, word}))
		if ok && got != word {
			again, _ := nearest.Of(other, slices.Values([]string{word}))
			require.Equal(t, word, again, "as near as the word itself: equal but for case and dashes")
		}
	})
}

func ExampleOf() {
	if k, ok := nearest.Of("endpiont", slices.Values([]string{"name", "endpoint"})); ok {
		fmt.Printf("did you mean %q?\n", k)
	}
	// Output: did you mean "endpoint"?
}
