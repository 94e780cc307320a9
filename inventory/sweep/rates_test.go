//go:build linux

package sweep_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/inventorytest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/shape"
)

func TestRateLimitsAreFoundAndGoWithTheirNetworkAlsoThoseOfPodsThatAreGone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Shaping)
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	w.Add(w.Conf("blue", "1", nil), "b")
	w.Add(w.Conf("red", "2", nil), "c")
	limits := shape.Limits{Out: shape.Limit{Rate: 1e6}, In: shape.Limit{Rate: 2e6, Held: true}}
	for network, ids := range map[string][]string{"blue": {"a", "b"}, "red": {"c"}} {
		for _, id := range ids {
			_, err := shape.Ensure(t.Context(), w.Node, shape.Device{Name: link.HostName(network, id, "eth0"), Owner: link.Alias(network, id, "eth0")}, limits)
			require.NoError(t, err)
		}
	}
	require.NoError(t, link.Delete(t.Context(), w.Node, link.HostName("blue", "b", "eth0"), "veth"))
	blue := w.Read().Only("blue").Rates
	require.Len(t, blue, 2)
	require.Equal(t, []string{"", link.HostName("blue", "a", "eth0")}, []string{blue[0].Device, blue[1].Device})
	for _, r := range blue {
		require.Equal(t, inventory.Ours, r.Owner)
		require.EqualValues(t, 2e6, r.In.Rate)
		require.True(t, r.In.Held)
	}
	require.Contains(t, run(t, plan(t, w, "blue")), "rate limit")
	left, err := link.List(t.Context(), w.Node, "ifb")
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, link.Alias("red", "c", "eth0"), left[0].Alias)
	require.NotContains(t, run(t, plan(t, w, "blue")), "rate limit")
}
