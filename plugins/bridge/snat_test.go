package bridge_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
)

// ranges is an IPAM of host-local with these subnets, one pool each.
func (w *world) ranges(subnets ...string) map[string]any {
	var pools [][]map[string]any
	for _, s := range subnets {
		pools = append(pools, []map[string]any{{"subnet": s}})
	}
	return map[string]any{"type": "host-local", "dataDir": w.dir, "ranges": pools}
}

func TestAnExecutedIPAMPluginWithoutRangesGetsASNATEntryForEachPod(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
			w := newWorld(t)
			dir, err := reference.Build("static")
			require.NoError(t, err)
			require.NoError(t, os.Symlink(dir, filepath.Join(w.dir, "bin")))
			ipam := func(n string) map[string]any {
				return map[string]any{"type": "static", "addresses": []any{
					map[string]any{"address": "10.40.0." + n + "/24", "gateway": "10.40.0.1"}, map[string]any{"address": "fd40::" + n + "/64", "gateway": "fd40::1"}}}
			}
			conf := func(n string) string { return w.conf(map[string]any{"ipam": ipam(n), "ipMasqBackend": backend}) }
			clean := w.settled(conf("9"))
			a, b := w.pod("a"), w.pod("b")
			a.add(conf("5"))
			b.add(conf("6"))
			reach(t, a.pod, outside4)
			reach(t, b.pod, outside6)
			require.Zero(t, a.check(conf("5")).status, "%s", a.check(conf("5")).out)
			a.del(conf("5"))
			reach(t, b.pod, outside4)
			require.NotContains(t, w.dump(), "10.40.0.5")
			b.del(conf("6"))
			require.Equal(t, clean, w.dump())
		})
	}
}

func TestPodsReachTheOutsideWhereTheForwardPolicyDrops(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	w := newWorld(t)
	for _, program := range []string{"iptables", "ip6tables"} {
		require.NoError(t, w.node.Do(func() error { return run(program, "-w", "-P", "FORWARD", "DROP") }))
	}
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	require.NoError(t, w.node.Do(func() error { return run("iptables", "-w", "-F", "FORWARD") }))
	ans := a.check(conf)
	require.Equal(t, 1, ans.status)
	require.Contains(t, ans.msg(), "FORWARD policy is DROP")
	w.pod("b").add(conf)
	reach(t, a.pod, outside4)
}

func TestADefaultRouteFromARouterAdvertisementSurvivesForwarding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := nstest.Netlink(t, w.node)
	uplink, err := h.LinkByName("uplink")
	require.NoError(t, err)
	nstest.Sysctl(t, w.node, "net/ipv6/conf/uplink/accept_ra", "1")
	const advertised = 9 // RTPROT_RA
	require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: outside6.AsSlice(), Protocol: advertised, Priority: 1024}))
	w.pod("a").add(w.conf(nil))
	require.Equal(t, "1", sysctlIn(t, w.node, "net/ipv6/conf/all/forwarding"))
	require.Equal(t, "2", sysctlIn(t, w.node, "net/ipv6/conf/uplink/accept_ra"))
	require.Contains(t, nstest.Dump(w.node), "via 2001:db8::2")
}

func TestTheRuleGrowsAtOnceAndShrinksInGC(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, now := w.conf(map[string]any{"ipam": w.ranges("10.1.2.0/24")}), w.conf(map[string]any{"ipam": w.ranges("10.1.7.0/24")})
	a, b := w.pod("a"), w.pod("b")
	a.add(old)
	b.add(now)
	reach(t, a.pod, outside4)
	reach(t, b.pod, outside4)
	a.del(old)
	require.Contains(t, ruleset(w), "10.1.2.")
	require.Zero(t, w.gc(now, b).status)
	require.NotContains(t, ruleset(w), "10.1.2.")
	reach(t, b.pod, outside4)
}

func ruleset(w *world) string {
	d := nstest.Dump(w.node)
	return d[strings.Index(d, "\nnft"):]
}

func TestDestinationsThatAreExceptedSeeThePodsOwnAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipMasqExcept": []string{"192.0.2.0/24"}})
	a := w.pod("a")
	res := a.add(conf)
	// The outside knows no way back to the pod until it is told.
	nstest.AddRoute(t, w.outside, "10.1.2.0/24", "192.0.2.1")
	reach(t, a.pod, outside4)
	require.NoError(t, w.outside.Do(func() error { return run("ip", "route", "del", "10.1.2.0/24") }))
	require.Error(t, pingShort(t, a, outside4))
	reach(t, a.pod, res.IPs[0].Gateway)
	reach(t, a.pod, outside6)
}

func TestIPMasqOfOneFamilyLeavesTheOtherAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.pod("a")
	conf := w.conf(map[string]any{"ipMasq": "ipv6"})
	a.add(conf)
	reach(t, a.pod, outside6)
	require.Error(t, pingShort(t, a, outside4))
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
}

func TestNetworksThatTreatOneAddressDifferentlyAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pod("a").add(w.conf(map[string]any{"ipam": w.ranges("10.1.0.0/16")}))
	other := w.conf(map[string]any{"name": "other", "bridge": "br1", "ipMasq": false, "isGateway": false, "isDefaultGateway": false,
		"ipam": w.ranges("10.1.2.0/24")})
	ans := w.pod("b").call("ADD", other)
	require.Zero(t, ans.status, "%s", ans.out)
	require.Contains(t, ans.errs, `"other"`)
	require.Contains(t, ans.errs, `"testnet"`)
	require.Contains(t, ans.errs, "10.1.2.")
}
