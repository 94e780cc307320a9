package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
)

// leads is a host-local of one range for each argument, "subnet gateway" each.
func (w *world) leads(list ...string) map[string]any {
	var sets [][]map[string]any
	for _, r := range list {
		subnet, gateway, _ := strings.Cut(r, " ")
		one := map[string]any{"subnet": subnet}
		if gateway != "" {
			one["gateway"] = gateway
		}
		sets = append(sets, []map[string]any{one})
	}
	return map[string]any{"type": "host-local", "dataDir": w.dir, "ranges": sets}
}

// answersARP reports whether the node answers for an address on its uplink.
func (w *world) answersARP(a netip.Addr) bool {
	w.t.Helper()
	h := nstest.Netlink(w.t, w.outside)
	eth0, err := h.LinkByName("eth0")
	require.NoError(w.t, err)
	dst, err := netlink.ParseIPNet(netip.PrefixFrom(a, a.BitLen()).String())
	require.NoError(w.t, err)
	require.NoError(w.t, h.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}))
	ctx, cancel := context.WithTimeout(w.t.Context(), 700*time.Millisecond)
	defer cancel()
	_ = nstest.Ping(ctx, w.outside, a, ping.Options{})
	neighs, err := h.NeighList(eth0.Attrs().Index, 0)
	require.NoError(w.t, err)
	for _, n := range neighs {
		if n.IP.String() == a.String() {
			require.NotZero(w.t, n.State)
			return n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) == 0
		}
	}
	require.Fail(w.t, "nobody was asked for "+a.String())
	return false
}

func TestAGatewayOutsideOfItsSubnetWorksAndGoesWithTheLastPod(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ranges []string
		far    []string // what must be gone after the last pod
	}{
		"IPv4":                              {ranges: []string{"10.7.0.0/24 192.168.1.1"}, far: []string{"192.168.1.1"}},
		"IPv4 link-local":                   {ranges: []string{"10.7.0.0/24 169.254.1.1"}, far: []string{"169.254.1.1"}},
		"IPv4 link-local, one address":      {ranges: []string{"10.7.0.5/32 169.254.1.1"}, far: []string{"169.254.1.1"}},
		"IPv6":                              {ranges: []string{"fd00:7::/64 fd00:99::1"}, far: []string{"fd00:99::1"}},
		"IPv6 link-local":                   {ranges: []string{"fd00:7::/64 fe80::1"}, far: []string{"br0 fe80::1/128"}},
		"both families":                     {ranges: []string{"10.7.0.0/24 192.168.1.1", "fd00:7::/64 fe80::1"}, far: []string{"192.168.1.1", "br0 fe80::1/128"}},
		"the gateway of the range before":   {ranges: []string{"10.7.0.0/24", "10.8.0.0/24 10.7.0.1"}, far: []string{"10.8.0.0/24"}},
		"the gateway of the range after":    {ranges: []string{"10.8.0.0/24 10.7.0.1", "10.7.0.0/24"}, far: []string{"10.8.0.0/24"}},
		"the gateway of another IPv6 range": {ranges: []string{"fd00:7::/64", "fd00:8::/64 fd00:7::1"}, far: []string{"fd00:8::/64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conf := w.conf(map[string]any{"ipam": w.leads(c.ranges...)})
			pods := []*attachment{w.pod("a")}
			if !strings.Contains(name, "one address") {
				pods = append(pods, w.pod("b"))
			}
			var results []*cni.Result
			for _, p := range pods {
				results = append(results, p.add(conf))
			}
			for i, p := range pods {
				for _, ip := range results[i].IPs {
					reach(t, w.node, ip.Address.Addr())
					if !ip.Gateway.IsLinkLocalUnicast() || ip.Gateway.Is4() {
						reach(t, p.pod, ip.Gateway)
					}
					if ip.Gateway.Is4() {
						reach(t, p.pod, outside4)
					} else {
						reach(t, p.pod, outside6)
					}
				}
				require.Zero(t, p.check(conf).status, "%s", p.check(conf).out)
			}
			for _, far := range c.far {
				require.Contains(t, nstest.Dump(w.node), far)
				if a, err := netip.ParseAddr(far); err == nil && a.Is4() && nstest.Has(nstest.NFTARP) {
					require.False(t, w.answersARP(a), "%s belongs to the pods alone", a)
				}
			}
			for i, p := range pods {
				p.del(conf)
				if i < len(pods)-1 {
					require.Zero(t, pods[i+1].check(conf).status, "%s", pods[i+1].check(conf).out)
				}
			}
			for _, far := range c.far {
				require.NotContains(t, withoutSNAT(nstest.Dump(w.node)), far)
				if a, err := netip.ParseAddr(far); err == nil && a.Is4() {
					require.False(t, w.answersARP(a), "%s after DEL", a)
				}
			}
		})
	}
}

// withoutSNAT leaves the rule out, whose exceptions name the network's subnets until GC.
func withoutSNAT(dump string) string {
	before, _, _ := strings.Cut(dump, "table inet cniblocks {")
	return before
}

func TestCheckSaysWhatAFarGatewayLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": w.leads("10.7.0.0/24 192.168.1.1", "fd00:7::/64 fd00:99::1")})
	p := w.pod("a")
	p.add(conf)
	for _, subnet := range []string{"10.7.0.0/24", "fd00:7::/64"} {
		require.NoError(t, w.node.Do(func() error { return run("ip", "route", "del", subnet, "dev", "br0") }))
		ans := p.check(conf)
		require.Equal(t, 1, ans.status)
		require.Contains(t, ans.msg(), "the route to "+subnet+" on br0")
		q := w.pod("mends")
		q.add(conf)
		require.Zero(t, p.check(conf).status, "%s", p.check(conf).out)
		q.del(conf)
	}
	nstest.Need(t, nstest.NFTARP)
	require.NoError(t, w.node.Do(func() error { return run("nft", "delete", "table", "arp", "cniblocks") }))
	require.Contains(t, p.check(conf).msg(), "the node answers ARP requests for the gateway 192.168.1.1 on other links than br0")
	w.pod("b").add(conf)
	require.Zero(t, p.check(conf).status, "%s", p.check(conf).out)
}

func TestAGatewayThatTheNodeNeedsElsewhereIsRefusedAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ranges, says string
		setup        func(w *world)
	}{
		"it is in a subnet of the uplink": {ranges: "10.7.0.0/24 192.0.2.77", says: "gateway 192.0.2.77 is in 192.0.2.0/24, which uplink of this node is connected to: choose one in 10.7.0.0/24"},
		"it is in an IPv6 subnet of it":   {ranges: "fd00:7::/64 2001:db8::77", says: "gateway 2001:db8::77 is in 2001:db8::/64, which uplink of this node is connected to"},
		"it is the uplink's own address":  {ranges: "10.7.0.0/24 192.0.2.1", says: "gateway 192.0.2.1 is in 192.0.2.0/24"},
		"it is the node's next hop": {ranges: "10.7.0.0/24 10.7.0.1", says: "gateway 10.7.0.1 is the next hop of this node to 0.0.0.0/0 over uplink",
			setup: func(w *world) { w.onLinkDefault("10.7.0.1") }},
		"it is the node's next hop, and far": {ranges: "10.7.0.0/24 198.51.100.1", says: "gateway 198.51.100.1 is the next hop of this node to 0.0.0.0/0 over uplink",
			setup: func(w *world) { w.onLinkDefault("198.51.100.1") }},
		"IPv6 is switched off": {ranges: "fd00:7::/64 fd00:7::1", says: "IPv6 is switched off on br0",
			setup: func(w *world) { nstest.Sysctl(w.t, w.node, "net/ipv6/conf/default/disable_ipv6", "1") }},
		"the subnet of a far one is elsewhere": {ranges: "10.7.0.0/24 198.51.100.1", says: "the subnet 10.7.0.0/24 of gateway 198.51.100.1 is reached by uplink already",
			setup: func(w *world) { nstest.AddRoute(w.t, w.node, "10.7.0.0/24", "192.0.2.9") }},
	} {
		for _, there := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, bridge there: %v", name, there), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if c.setup != nil {
					c.setup(w)
				}
				if there { // it is the network's and stays
					w.pod("first").add(w.conf(map[string]any{"ipMasq": false, "isDefaultGateway": false, "isGateway": false, "ipam": nil}))
				}
				conf := w.conf(map[string]any{"ipam": w.leads(c.ranges), "ipMasq": false})
				nstest.Settle(t, w.node)
				before := w.dump()
				p := w.pod("a")
				ans := p.call(cni.ADD, conf)
				require.Equal(t, cni.ErrConfig, ans.code(), "%s", ans.out)
				require.Contains(t, ans.msg(), c.says)
				require.Equal(t, before, w.dump())
			})
		}
	}
}

func (w *world) onLinkDefault(via string) {
	w.t.Helper()
	h := nstest.Netlink(w.t, w.node)
	l, err := h.LinkByName("uplink")
	require.NoError(w.t, err)
	require.NoError(w.t, h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: netip.MustParseAddr(via).AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
}

func TestAGatewayThatNoHostCanHaveIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.dump()
	for _, r := range []string{"10.7.0.0/24 127.0.0.1", "10.7.0.0/24 224.0.0.1", "10.7.0.0/24 255.255.255.255", "10.7.0.0/24 10.7.0.255", "10.7.0.0/24 0.0.0.0",
		"10.7.0.0/24 10.7.0.0", "fd00:7::/64 ::", "fd00:7::/64 ::1", "fd00:7::/64 ff00::1", "fd00:7::/64 ff02::1", "fd00:7::/64 fd00:7::"} {
		_, gateway, _ := strings.Cut(r, " ")
		for _, verb := range []cni.Verb{cni.ADD, cni.STATUS} {
			ans := w.pod("a").call(verb, w.conf(map[string]any{"ipam": w.leads(r)}))
			require.Equal(t, cni.ErrConfig, ans.code(), "%s: %s", r, ans.out)
			require.Regexp(t, `netconf: key "ipam": .*gateway `+gateway+" is .*, which no host can have", ans.msg(), r)
		}
	}
	require.Equal(t, before, w.dump())
}

func TestAGatewayOfAnotherIPAMPluginThatNoHostCanHaveIsRefusedAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var answer cni.Result
	w.delegates["other"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{IPs: slices.Clone(answer.IPs), Routes: answer.Routes}, nil
	}}
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "other"}, "isDefaultGateway": false, "ipMasq": false})
	w.settled(w.conf(map[string]any{"ipam": nil, "isGateway": false, "isDefaultGateway": false, "ipMasq": false}))
	before := w.dump()
	pod := netip.MustParsePrefix("10.7.0.2/24")
	for gateway, says := range map[string]string{
		"10.7.0.255": "10.7.0.255 is the broadcast address of subnet 10.7.0.0/24", "10.7.0.0": "10.7.0.0 is the own address of subnet 10.7.0.0/24",
		"127.0.0.1": "127.0.0.1 is the loopback", "224.0.0.1": "224.0.0.1 is a multicast group", "10.7.0.2": "10.7.0.2 is the pod's own address",
		"fd00::1": "fd00::1 is of the other family",
	} {
		answer = cni.Result{IPs: []cni.IP{{Address: pod, Gateway: netip.MustParseAddr(gateway), Interface: cni.NoInterface}}}
		ans := w.pod("a").call(cni.ADD, conf)
		require.Equal(t, cni.ErrConfig, ans.code(), "%s: %s", gateway, ans.out)
		require.Contains(t, ans.msg(), says)
		require.Equal(t, before, w.dump())
	}
	answer = cni.Result{IPs: []cni.IP{{Address: pod, Interface: cni.NoInterface}},
		Routes: []cni.Route{{Dst: netip.MustParsePrefix("10.6.0.0/16"), GW: netip.MustParseAddr("224.0.0.5")}}}
	ans := w.pod("a").call(cni.ADD, conf)
	require.Equal(t, cni.ErrConfig, ans.code(), "%s", ans.out)
	require.Contains(t, ans.msg(), `the route to 10.6.0.0/16 that plugin "other" gave: next hop 224.0.0.5 is a multicast group`)
	require.Equal(t, before, w.dump())
}

func TestAGatewayThatAFailedADDPutOnTheBridgeGoesUnlessAnotherPodUsesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fails := func() string {
		ipam := w.leads("10.7.0.0/24", "fd00:7::/64 fe80::1")
		ipam["routes"] = []map[string]any{{"dst": "10.6.0.0/16", "gw": "10.7.0.1", "scope": 253}}
		return w.conf(map[string]any{"ipam": ipam, "ipMasq": false})
	}
	w.settled(w.conf(map[string]any{"ipam": nil, "isGateway": false, "isDefaultGateway": false, "ipMasq": false}))
	nstest.Forward(t, w.node)
	before := w.dump()
	ans := w.pod("a").call(cni.ADD, fails())
	require.Equal(t, cni.ErrIO, ans.code(), "%s", ans.out)
	require.Equal(t, before, w.dump())

	good := w.conf(map[string]any{"ipam": w.leads("10.7.0.0/24", "fd00:7::/64 fe80::1"), "ipMasq": false})
	p := w.pod("b")
	p.add(good)
	require.Equal(t, cni.ErrIO, w.pod("c").call(cni.ADD, fails()).code())
	require.Zero(t, p.check(good).status, "%s", p.check(good).out)
}

func TestARouteWhoseNextHopIsOnNoWireIsAWarning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ipam := w.leads("10.7.0.0/24", "10.8.0.0/24", "fd00:7::/64 fe80::1")
	ipam["routes"] = []map[string]any{{"dst": "10.6.0.0/16", "gw": "10.99.0.1"}, {"dst": "10.5.0.0/16", "gw": "10.8.0.9"}, {"dst": "fd05::/16", "gw": "fe80::1"}, {"dst": "10.4.0.0/16"}}
	ans := w.pod("a").call(cni.ADD, w.conf(map[string]any{"ipam": ipam}))
	require.Zero(t, ans.status, "%s", ans.out)
	require.Contains(t, ans.errs, "the route to 10.6.0.0/16 leads to 10.99.0.1, which is in no subnet of this network")
	require.Equal(t, 1, strings.Count(ans.errs, "the route to"), ans.errs)
}

func TestAFarGatewayIsThereForEveryPodHoweverManyComeAndGoAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": w.leads("10.7.0.0/24 192.168.1.1", "fd00:7::/64 fd00:99::1"), "ipMasq": false})
	const pods, rounds = 6, 8
	said := make([]string, pods)
	var all []*attachment
	for i := range pods {
		all = append(all, w.pod("p"+string(rune('0'+i))))
	}
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			for range rounds {
				ans := p.call(cni.ADD, conf)
				if ans.status == 0 {
					p.prev = ans.out
					ans = p.check(conf)
				}
				if ans.status == 0 {
					ans = p.call(cni.DEL, conf)
				}
				if ans.status != 0 {
					said[i] = string(ans.out)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, make([]string, pods), said)
	require.NotContains(t, nstest.Dump(w.node), "192.168.1.1")
}
