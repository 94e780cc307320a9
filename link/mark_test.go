//go:build linux

package link_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/veth"
)

func TestTheHostsNameDerivesFromNetworkContainerAndInterface(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, network := range []string{"a", "b"} {
		for _, id := range []string{"c1", "c2", strings.Repeat("f", 64)} {
			for _, ifName := range []string{"eth0", "eth1"} {
				name := link.HostName(network, id, ifName)
				require.Equal(t, name, link.HostName(network, id, ifName))
				require.Regexp(t, "^veth[a-z2-7]{11}$", name)
				require.False(t, seen[name])
				seen[name] = true
			}
		}
	}
	require.Equal(t, "veth7ksphn7pflb", link.HostName("net", "id", "eth0"), "it is the same in every release: DEL finds it by it")
}

func TestAnAliasAlwaysFitsTheKernelsBound(t *testing.T) {
	t.Parallel()
	require.Equal(t, "cniblocks/net/id/eth0", link.Alias("net", "id", "eth0"))
	a := link.Alias(strings.Repeat("n", 190), strings.Repeat("c", 255), "fifteen-letters")
	b := link.Alias(strings.Repeat("n", 190), strings.Repeat("c", 254)+"d", "fifteen-letters")
	long := strings.Repeat("n", 255)
	require.NotEqual(t, a, b)
	require.NotEqual(t, link.NetworkAlias(long), link.NetworkAlias(long[1:]))
	require.LessOrEqual(t, len(link.Alias(long, long, "fifteen-letters")), 255)
	require.True(t, strings.HasPrefix(link.Alias(long, long, "eth0"), link.AliasPrefix(long)))
	for _, alias := range []string{a, b} {
		require.LessOrEqual(t, len(alias), 255)
		require.True(t, strings.HasPrefix(alias, link.AliasPrefix(strings.Repeat("n", 190))))
		require.True(t, strings.HasSuffix(alias, "/fifteen-letters"))
		_, err := veth.Create(t.Context(), veth.Pair{Alias: alias, Host: veth.End{NS: nstest.New(t), Name: "h"}, Pod: veth.End{NS: nstest.New(t), Name: "p"}})
		require.NoError(t, err)
	}
}

func TestTheMACOfAnAddressIsAStationsAndTheSameEveryTime(t *testing.T) {
	t.Parallel()
	seen := map[inet.MAC]bool{}
	for _, network := range []string{"a", "b"} {
		for a := netip.MustParseAddr("10.0.0.0"); a.Less(netip.MustParseAddr("10.0.1.0")); a = a.Next() {
			m := link.MACFor(network, a.String())
			require.Equal(t, m, link.MACFor(network, a.String()))
			require.EqualValues(t, 2, m[0]&3, "locally administered, unicast")
			require.False(t, seen[m])
			seen[m] = true
			parsed, err := inet.ParseMAC(m.String())
			require.NoError(t, err)
			require.Equal(t, m, parsed)
		}
	}
}
