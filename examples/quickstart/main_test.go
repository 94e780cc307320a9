package main

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestTheQuickstartRuns(t *testing.T) {
	nstest.NeedRoot(t)
	require.NoError(t, run(t.Context()))
}

func TestPodsOfTheQuickstartReachEachOther(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	node, a, b := nstest.New(t), nstest.New(t), nstest.New(t)
	br, err := bridge.Ensure(t.Context(), node, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	gateway := netip.MustParsePrefix("10.1.0.1/24")
	nstest.AddAddrs(t, node, "br0", gateway.String())
	require.NoError(t, attach(t.Context(), node, a, br, netip.MustParsePrefix("10.1.0.2/24"), gateway.Addr()))
	require.NoError(t, attach(t.Context(), node, b, br, netip.MustParsePrefix("10.1.0.3/24"), gateway.Addr()))
	require.NoError(t, nstest.Ping(t.Context(), a, netip.MustParseAddr("10.1.0.3"), ping.Options{}))
	require.NoError(t, nstest.Ping(t.Context(), b, gateway.Addr(), ping.Options{}))
}
