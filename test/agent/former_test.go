//go:build linux

package agent_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/veth"
)

// gateways are those of the machine's bridge pods0, as the bridge plugin keeps them.
func (m *machine) gateways(ranges ...netip.Prefix) bridge.Gateways {
	m.w.t.Helper()
	br, err := bridge.Ensure(m.w.t.Context(), m.ns, bridge.Bridge{Name: "pods0", Alias: "cniblocks/pods"})
	require.NoError(m.w.t, err)
	g := bridge.Gateways{NS: m.ns, Index: br.Index, Name: br.Name}
	for _, r := range ranges {
		g.Configured = append(g.Configured, bridge.Gateway{Addr: r.Addr().Next(), Subnet: r})
	}
	return g
}

func (m *machine) addGateways(ranges ...netip.Prefix) {
	m.w.t.Helper()
	g := m.gateways(ranges...)
	_, err := g.Ensure(m.w.t.Context(), false, g.Configured...)
	require.NoError(m.w.t, err)
}

// onBridge gives the machine a pod on that bridge, as the plugin would; it returns what removes it.
func (m *machine) onBridge(r netip.Prefix) (gone func()) {
	m.w.t.Helper()
	m.addGateways(r)
	m.pod = nstest.New(m.w.t)
	name := link.HostName("pods", "c1", "eth0")
	_, err := veth.CreateOn(m.w.t.Context(), veth.Pair{Host: veth.End{NS: m.ns, Name: name}, Pod: veth.End{NS: m.pod, Name: "eth0"},
		Alias: link.Alias("pods", "c1", "eth0")}, m.gateways().Index)
	require.NoError(m.w.t, err)
	in(m.w.t, m.pod, "ip link set eth0 up")
	nstest.AddAddrs(m.w.t, m.pod, "eth0", netip.PrefixFrom(r.Addr().Next().Next(), r.Bits()).String())
	nstest.AddRoute(m.w.t, m.pod, "default", r.Addr().Next().String())
	return func() { require.NoError(m.w.t, veth.Delete(m.w.t.Context(), m.ns, name)) }
}

func (m *machine) has(gateway string) bool {
	return strings.Contains(in(m.w.t, m.ns, "ip -o address show pods0"), " "+gateway+" ")
}

func v4(n string) netip.Prefix { return netip.MustParsePrefix("10.244." + n + ".0/24") }

func TestAnAgentThatStartsRemovesFormerGatewaysThatNoPodUsesAndTheNodesReachEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	a, b := w.machines[0], w.machines[1]
	a.pods, b.pods = []netip.Prefix{v4("7")}, []netip.Prefix{v4("1")}
	a.addGateways(v4("7"), v4("1"), netip.MustParsePrefix("fd00:10:244:1::/64"), netip.MustParsePrefix("10.77.0.0/24"))
	nstest.AddAddrs(t, a.ns, "pods0", "10.244.8.1/24")
	b.onBridge(v4("1"))
	w.peers(a, b)
	for _, m := range w.machines {
		m.byFile("host-gw")
		m.run()
	}
	for _, m := range w.machines {
		m.ready()
	}
	require.False(t, a.has("10.244.1.1/24"))
	require.False(t, a.has("fd00:10:244:1::1/64"))
	require.True(t, a.has("10.244.7.1/24"), "its range")
	require.True(t, a.has("10.77.0.1/24"), "of another network")
	require.True(t, a.has("10.244.8.1/24"), "it bears no mark")
	reach(t, a.ns, v4("1").Addr().Next().Next())
	reach(t, b.pod, a.at[0])
}

func TestAFormerGatewayThatAPodUsesIsNoForeignRouteAndWhenItGoesTheNodesReachEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	a, b := w.machines[0], w.machines[1]
	a.pods, b.pods = []netip.Prefix{v4("1")}, []netip.Prefix{v4("2")}
	w.peers(a, b)
	gone := a.onBridge(v4("1"))
	a.byFile("host-gw").Resync = time.Hour
	a.run()
	a.ready()

	a.pods, b.pods = []netip.Prefix{v4("7")}, []netip.Prefix{v4("1")}
	w.peers(a, b)
	b.onBridge(v4("1"))
	b.byFile("host-gw")
	b.run()
	b.ready()
	until(t, "another range", func() bool { return slices.Equal(a.Status().Ranges, a.pods) })
	until(t, "the word about the peer", func() bool { return len(a.Status().Refused) > 0 })
	said := strings.Join(a.Status().Refused, "\n")
	require.Contains(t, said, "the route to 10.244.1.0/24 cannot be set: pods0 still has the gateway 10.244.1.1/24, of a range that was this node's")
	require.NotContains(t, said, "foreign")
	require.NotContains(t, said, "#")
	require.True(t, a.has("10.244.1.1/24"), "the pod uses it")

	gone()
	require.NoError(t, a.gateways(v4("7")).Retire(t.Context())) // as DEL of the plugin does
	until(t, "no refusal", func() bool { return len(a.Status().Refused) == 0 })
	reach(t, a.ns, v4("1").Addr().Next().Next())
}

func TestAFormerGatewayGoesWithTheLeaseThatWasLostWhenNoPodUsesItAnyMore(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s, m, lease := oneWithAPod(t)
	own := m.Status().Ranges[0]
	gateway := netip.PrefixFrom(own.Addr().Next(), own.Bits()).String()
	gone := m.onBridge(own)
	s.Ctl(t, "put", subnetsKey+strings.ReplaceAll(own.String(), "/", "-"),
		`{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`)
	until(t, "the word about the loss", func() bool { return strings.Contains(strings.Join(m.Status().Reasons, " "), "drain this node") })
	require.True(t, m.has(gateway), "the pod uses it")

	gone()
	require.NoError(t, os.Remove(lease))
	m.ready()
	require.NotEqual(t, own, m.Status().Ranges[0])
	require.False(t, m.has(gateway))
	until(t, "the route to the node that has it now", func() bool {
		return strings.Contains(in(t, m.ns, "ip route show "+own.String()), "dev flannel.1")
	})
}
