package bridge_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestPodsReachEachOtherTheNodeAndTheOutsideOverBothFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	clean := w.settled(conf)
	a, b := w.pod("a"), w.pod("b")
	ra, rb := a.add(conf), b.add(conf)
	require.Len(t, ra.IPs, 2)
	for i := range ra.IPs {
		reach(t, a.pod, rb.IPs[i].Address.Addr())
		reach(t, b.pod, ra.IPs[i].Gateway)
	}
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
	for _, p := range []*attachment{a, b} {
		require.Zero(t, p.check(conf).status, "%s", p.check(conf).out)
		p.del(conf)
	}
	require.Equal(t, clean, w.dump())
}

// dump is the state of the node and of the lease directory. What belongs to the network and not to a pod is part of it.
func (w *world) dump() string {
	return nstest.Dump(w.node) + "leases " + strings.Join(w.leases(), " ") + "\n"
}

// settled is the state after one pod came and went.
func (w *world) settled(conf string) string {
	w.t.Helper()
	p := w.pod("first")
	p.add(conf)
	require.Eventually(w.t, func() bool { return strings.Contains(nstest.Dump(w.node), "address br0 fe80:") }, 10*time.Second, 10*time.Millisecond)
	nstest.Settle(w.t, w.node)
	p.del(conf)
	return w.dump()
}

func (w *world) leases() (held []string) {
	entries, err := os.ReadDir(filepath.Join(w.dir, "testnet"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			held = append(held, e.Name())
		}
	}
	return held
}

// fake is an IPAM plugin that does as it is told.
type fake struct {
	add  func(context.Context, *cni.Request) (*cni.Result, error)
	dels *int
}

func (f fake) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) { return f.add(ctx, r) }
func (f fake) Del(context.Context, *cni.Request) error {
	if f.dels != nil {
		*f.dels++
	}
	return nil
}
func (fake) Check(context.Context, *cni.Request) error  { return nil }
func (fake) Status(context.Context, *cni.Request) error { return nil }
func (fake) GC(context.Context, *cni.Request) error     { return nil }

func TestAFailedADDLeavesNothingAndTheRetryWorks(t *testing.T) {
	t.Parallel()
	small := map[string]any{"type": "host-local", "subnet": "10.9.9.0/30"}
	for name, c := range map[string]struct {
		keys  map[string]any
		code  cni.Code
		says  string
		setup func(w *world, p *attachment)
	}{
		"IPAM refuses the address": {keys: map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.77.0.1"}}}},
			code: cni.ErrConfig, says: "10.77.0.1.*in no range"},
		"pool is exhausted": {keys: map[string]any{"ipam": small}, code: cni.ErrTryAgain, says: "no address left",
			setup: func(w *world, p *attachment) {
				other := w.pod("other")
				small["dataDir"] = w.dir
				other.add(w.conf(map[string]any{"ipam": small}))
			}},
		"SNAT backend is unknown":          {keys: map[string]any{"ipMasqBackend": "magic"}, code: cni.ErrConfig, says: `"ipMasqBackend" is "magic"`},
		"bridge's name is taken by a veth": {keys: map[string]any{"bridge": "uplink"}, code: cni.ErrConfig, says: "uplink is a veth, not a bridge"},
		"interface's name is taken": {code: cni.ErrConfig, says: "eth0.*has an interface of this name already", setup: func(w *world, p *attachment) {
			nstest.Link(w.t, nstest.End{NS: p.pod, Name: "eth0"}, nstest.End{NS: w.outside, Name: "x"})
		}},
		"gateway conflicts": {code: cni.ErrConfig, says: `br0 has the address 10.99.0.1/16.*forceAddress`, setup: func(w *world, p *attachment) {
			h := nstest.Netlink(w.t, w.node)
			require.NoError(w.t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}))
			nstest.AddAddrs(w.t, w.node, "br0", "10.99.0.1/16")
		}},
		"IPAM answers without an address": {keys: map[string]any{"ipam": map[string]any{"type": "empty"}}, code: cni.ErrConfig, says: "gave no address"},
		"IPAM plugin is missing":          {keys: map[string]any{"ipam": map[string]any{"type": "nowhere"}}, code: cni.ErrNotAvailable, says: `"nowhere" is neither linked in nor in CNI_PATH`},
		"kernel refuses a route":          {keys: map[string]any{"ipam": map[string]any{"type": "odd"}}, code: cni.ErrIO, says: "add|append route"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.delegates["empty"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) { return &cni.Result{}, nil }}
			w.delegates["odd"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
				return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.5.0.2/24"), Interface: cni.NoInterface}},
					Routes: []cni.Route{{Dst: netip.MustParsePrefix("10.6.0.0/16"), GW: netip.MustParseAddr("10.5.0.1"), Scope: unix.RT_SCOPE_LINK}}}, nil
			}}
			p := w.pod("a")
			if c.setup != nil {
				c.setup(w, p)
				nstest.Settle(t, w.node)
			}
			before := w.dump()
			ans := p.call(cni.ADD, w.conf(c.keys))
			require.Equal(t, 1, ans.status)
			require.Equal(t, c.code, ans.code(), "%s", ans.out)
			require.Regexp(t, regexp.MustCompile("(?s)"+c.says), ans.msg())
			require.NotContains(t, nstest.Dump(p.pod), "10.1.2.", "the pod has no address")
			after := w.dump()
			for _, l := range strings.Split(after, "\n") {
				require.False(t, strings.Contains(l, "veth") && !strings.Contains(before, l), "left behind: %s", l)
			}
			require.Equal(t, leasesIn(before), leasesIn(after))
			if c.setup == nil {
				p.add(w.conf(nil))
				reach(t, p.pod, outside4)
			}
		})
	}
}

func leasesIn(dump string) string { return dump[strings.Index(dump, "\nleases"):] }

func TestACancelledADDUndoesItselfAndCallsTheDelegatesDEL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "slow"}})
	dels := 0
	ctx, cancel := context.WithCancel(context.Background())
	w.delegates["slow"] = fake{dels: &dels, add: func(context.Context, *cni.Request) (*cni.Result, error) {
		cancel()
		return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.5.0.2/24"), Interface: cni.NoInterface}}}, nil
	}}
	p := w.pod("a")
	ans := w.callContext(ctx, cni.ADD, p.id, path(p.pod), "eth0", "", conf)
	require.Equal(t, 1, ans.status)
	require.Equal(t, cni.ErrTryAgain, ans.code(), "%s", ans.out)
	require.Equal(t, 1, dels)
	require.NotContains(t, w.dump(), "veth veth")
	require.NotContains(t, nstest.Dump(p.pod), "eth0")
}

func TestADuplicateADDFailsAndLeavesTheFirstWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	before := w.dump() + nstest.Dump(a.pod)
	ans := a.call(cni.ADD, conf)
	require.Equal(t, 1, ans.status)
	require.Equal(t, cni.ErrConfig, ans.code())
	require.Contains(t, ans.msg(), "the node has it already, for \"cniblocks/testnet/a/eth0\"")
	require.Equal(t, before, w.dump()+nstest.Dump(a.pod))
	require.Zero(t, a.check(conf).status)
	reach(t, a.pod, outside4)
}

func TestBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.dump()
	for says, keys := range map[string]map[string]any{
		`key "mtu" is 20`:                          {"mtu": 20},
		`key "mtu" is a JSON string`:               {"mtu": "1500"},
		`key "vlan" is 5000`:                       {"vlan": 5000},
		`"vlanTrunk\[0\]" has one of`:              {"vlanTrunk": []any{map[string]any{"minID": 5}}},
		`"vlanTrunk\[0\]": "minID" 9 is above`:     {"vlanTrunk": []any{map[string]any{"minID": 9, "maxID": 5}}},
		`"hairpinMode" and "promiscMode"`:          {"hairpinMode": true, "promiscMode": true},
		`"ipam" and "disableContainerInterface"`:   {"disableContainerInterface": true},
		`key "bridge" is "a/b"`:                    {"bridge": "a/b"},
		`key "ipMasq" is "ipv5"`:                   {"ipMasq": "ipv5"},
		`"ipMasqExcept": 10.0.0.1/8 has host bit`:  {"ipMasqExcept": []string{"10.0.0.1/8"}},
		`"runtimeConfig.mac".*group`:               {"runtimeConfig": map[string]any{"mac": "01:00:5e:00:00:01"}},
		`"ipam".*range set 0 .10.1.2.1-10.1.2.254`: {"ipam": map[string]any{"type": "host-local", "ranges": []any{[]any{map[string]any{"subnet": "10.1.2.0/24"}}, []any{map[string]any{"subnet": "10.1.2.0/24"}}}}},
		`"ipMasqExcept" is .*10.0.0.0/33`:          {"ipMasqExcept": []string{"10.0.0.0/8", "10.0.0.0/33"}},
		`"cniVersion" is "9.9.9"`:                  {"cniVersion": "9.9.9"},
		`key "name" is "../x"`:                     {"name": "../x"},
	} {
		ans := w.pod("a").call(cni.ADD, w.conf(keys))
		require.Equal(t, 1, ans.status, says)
		require.Regexp(t, says, ans.msg())
		require.NotEqual(t, cni.ErrInternal, ans.code(), "%s", ans.out)
		require.Equal(t, before, w.dump(), says)
	}
}

func TestAnUnknownKeyWarnsAndNamesTheNearest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"isGatway": true, "io.kubernetes.cri": 1})
	ans := w.pod("a").call(cni.ADD, conf)
	require.Zero(t, ans.status)
	require.Contains(t, ans.errs, `key "isGatway" is not known and ignored; did you mean "isGateway"?`)
	require.NotContains(t, ans.errs, "kubernetes")
}

func TestAnIPv6AddressIsUsableWhenADDReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.pod("a")
	nstest.Sysctl(t, a.pod, "net/ipv6/conf/default/disable_ipv6", "1")
	res := a.add(w.conf(nil))
	require.NotContains(t, nstest.Dump(a.pod), "tentative")
	reach(t, a.pod, res.IPs[1].Gateway)
	reach(t, a.pod, outside6)
}

func TestEnabledadWaitsForDuplicateAddressDetection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.pod("a")
	a.add(w.conf(map[string]any{"enabledad": true}))
	require.Equal(t, "1", sysctlIn(t, a.pod, "net/ipv6/conf/eth0/accept_dad"))
	require.NotContains(t, nstest.Dump(a.pod), "tentative")
	reach(t, a.pod, outside6)
}

func sysctlIn(t *testing.T, ns *netns.NS, key string) (value string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		value = strings.TrimSpace(string(b))
		return err
	}))
	return value
}

func TestALayer2NetworkHasNoAddressesAndPassesCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": nil, "ipMasq": nil, "isGateway": nil, "isDefaultGateway": nil})
	a := w.pod("a")
	res := a.add(conf)
	require.Empty(t, res.IPs)
	require.Len(t, res.Interfaces, 3)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	a.del(conf)
	require.NotContains(t, w.dump(), "veth veth")
}

func TestEveryKeyOfThePortAndTheInterfaceTakesEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"mtu": 1400, "hairpinMode": true, "portIsolation": true, "dns": map[string]any{"nameservers": []string{"10.1.2.1"}},
		"runtimeConfig": map[string]any{"mac": "02:00:00:00:00:07"}})
	a := w.pod("a")
	a.args = "MAC=02:00:00:00:00:01"
	res := a.add(conf)
	require.Equal(t, "02:00:00:00:00:07", res.Interfaces[2].MAC)
	require.Equal(t, 1400, res.Interfaces[2].MTU)
	require.Equal(t, []string{"10.1.2.1"}, res.DNS.Nameservers)
	pod, err := nstest.Netlink(t, a.pod).LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, "02:00:00:00:00:07", pod.Attrs().HardwareAddr.String())
	require.Equal(t, 1400, pod.Attrs().MTU)
	h := nstest.Netlink(t, w.node)
	host, err := h.LinkByName(res.Interfaces[1].Name)
	require.NoError(t, err)
	require.Equal(t, "cniblocks/testnet/a/eth0", host.Attrs().Alias)
	require.Equal(t, 1400, host.Attrs().MTU)
	port, err := h.LinkGetProtinfo(host)
	require.NoError(t, err)
	require.True(t, port.Hairpin)
	require.True(t, port.Isolated)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	br, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.Equal(t, res.Interfaces[0].MAC, br.Attrs().HardwareAddr.String())
}

func TestSeveralRangesOfOneFamilyWorkAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "ranges": []any{
		[]any{map[string]any{"subnet": "10.1.2.0/24"}}, []any{map[string]any{"subnet": "10.1.3.0/24"}},
		[]any{map[string]any{"subnet": "fd00:1::/64"}}, []any{map[string]any{"subnet": "fd00:2::/64"}}}}})
	a := w.pod("a")
	res := a.add(conf)
	require.Len(t, res.IPs, 4)
	for _, ip := range res.IPs {
		reach(t, a.pod, ip.Gateway)
	}
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
}

func TestWhatAResultSaysOfARouteIsInTheKernel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.delegates["rich"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.5.0.2/24"), Gateway: netip.MustParseAddr("10.5.0.1"), Interface: cni.NoInterface}},
			Routes: []cni.Route{{Dst: netip.MustParsePrefix("10.6.0.0/16"), MTU: 1300, AdvMSS: 1200, Priority: 77, Table: 1234},
				{Dst: netip.MustParsePrefix("10.7.0.0/16"), Scope: 253, GW: netip.Addr{}}}}, nil
	}}
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "rich"}, "ipMasq": false})
	a := w.pod("a")
	res := a.add(conf)
	require.Equal(t, 1300, res.Routes[0].MTU)
	routes, err := nstest.Netlink(t, a.pod).RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 1234}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	i := slices.IndexFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == "10.6.0.0/16" })
	require.GreaterOrEqual(t, i, 0, "%v", routes)
	require.Equal(t, "10.5.0.1", routes[i].Gw.String())
	require.Equal(t, []int{1300, 1200, 77}, []int{routes[i].MTU, routes[i].AdvMSS, routes[i].Priority})
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
}

func TestResultsAreGivenInEveryVersion(t *testing.T) {
	t.Parallel()
	for _, v := range cni.Versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conf := w.conf(map[string]any{"cniVersion": v})
			a := w.pod("a")
			res := a.add(conf)
			require.Equal(t, netip.MustParsePrefix("10.1.2.2/24"), res.IPs[0].Address)
			require.Contains(t, string(a.prev), `"cniVersion":"`+v+`"`)
			require.Equal(t, v == "1.1.0", strings.Contains(string(a.prev), `"mtu"`))
			ans := a.check(conf)
			if v < "0.4.0" {
				require.Equal(t, cni.ErrVersion, ans.code())
			} else {
				require.Zero(t, ans.status, "%s", ans.out)
			}
			a.del(with(conf, "prevResult", a.prev))
			require.Empty(t, w.leases())
		})
	}
}

func TestPortsHaveNoRouteForMulticastWhichTheBridgeHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pod("a").add(w.conf(nil))
	w.pod("b").add(w.conf(nil))
	h := nstest.Netlink(t, w.node)
	links, err := h.LinkList()
	require.NoError(t, err)
	names := map[int]string{}
	ports := 0
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		if l.Attrs().MasterIndex != 0 {
			names[l.Attrs().Index] = "port"
			ports++
		}
	}
	require.Equal(t, 2, ports)
	routes, err := h.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_MULTICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	require.NoError(t, err)
	var have []string
	for _, r := range routes {
		have = append(have, names[r.LinkIndex])
	}
	require.Contains(t, have, "br0")
	require.NotContains(t, have, "port")
}

func TestTheNodeCanAskForNeighboursWhenTheFirstADDReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	res := w.pod("a").add(w.conf(nil))
	now := nstest.Dump(w.node)
	require.Contains(t, now, "address br0 fe80:")
	require.NotContains(t, now, "tentative")
	for _, ip := range res.IPs {
		reach(t, w.node, ip.Address.Addr())
	}
}

// TestAContainerInTheNodesOwnNamespaceIsTakenWhereThatIsAskedFor: as CNI_NETNS_OVERRIDE does with the specification's library.
func TestAContainerInTheNodesOwnNamespaceIsTakenWhereThatIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"isDefaultGateway": nil, "isGateway": nil})
	a := &attachment{w: w, id: "c1", name: "eth9", pod: w.node, args: ""}
	ans := a.call(cni.ADD, conf)
	require.Equal(t, 1, ans.status)
	require.Contains(t, string(ans.out), "CNI_NETNS_OVERRIDE=1")
	w.override = "1"
	res := a.add(conf)
	require.Equal(t, "eth9", res.Interfaces[2].Name)
	require.Len(t, res.IPs, 2)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	a.args = "none"
	a.del(conf)
	require.NotContains(t, nstest.DumpLinks(w.node), "eth9")
	require.NoFileExists(t, filepath.Join(w.dir, "testnet", "10.1.2.2"))
}
