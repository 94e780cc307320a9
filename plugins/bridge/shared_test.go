package bridge_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestTwoNetworksThatHandOutTheSameAddressesOnOneBridgeAreWarnedOfByBothNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const says = `networks "other" and "testnet" hand out the same addresses on bridge br0, such as `
	one, other := w.conf(nil), w.conf(map[string]any{"name": "other"})
	a := w.pod("a")
	first := a.call(cni.ADD, one)
	require.Zero(t, first.status, "%s", first.out)
	require.NotContains(t, first.errs, "hand out the same")
	status := w.pod("-").call(cni.STATUS, other)
	require.Zero(t, status.status, "%s", status.out)
	require.Contains(t, status.errs, says+"10.1.2.2", "before it has a pod")

	second := w.pod("b").call(cni.ADD, other)
	require.Zero(t, second.status, "%s", second.out)
	require.Contains(t, second.errs, says+"10.1.2.2")
	status = w.pod("-").call(cni.STATUS, one)
	require.Contains(t, status.errs, `networks "testnet" and "other" hand out the same addresses on bridge br0, such as 10.1.2.2`)

	for what, keys := range map[string]map[string]any{
		"another bridge": {"name": "third", "bridge": "br1", "isDefaultGateway": false, "isGateway": false},
		"another range":  {"name": "fourth", "ipam": w.ranges("10.9.0.0/24")},
	} {
		ans := w.pod("c").call(cni.ADD, w.conf(keys))
		require.Zero(t, ans.status, "%s: %s", what, ans.out)
		require.NotContains(t, ans.errs, "hand out the same", what)
		require.NotContains(t, w.pod("-").call(cni.STATUS, w.conf(keys)).errs, "hand out the same", what)
	}
}

func TestTwoNetworksInDifferentVLANsOfABridgeMayHandOutTheSameAddresses(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	w := newWorld(t)
	in := func(network string, vlan int) string {
		return w.conf(map[string]any{"name": network, "vlan": vlan, "isGateway": false, "isDefaultGateway": false, "ipMasq": false})
	}
	w.pod("a").add(in("testnet", 10))
	ans := w.pod("b").call(cni.ADD, in("other", 20))
	require.Zero(t, ans.status, "%s", ans.out)
	require.NotContains(t, ans.errs, "hand out the same")
	ans = w.pod("c").call(cni.ADD, in("third", 10))
	require.Contains(t, ans.errs, `networks "third" and "testnet" hand out the same addresses on bridge br0`)
}
