package flannel_test

import (
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

var outside = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}

func TestPodsAreAttachedToThisNodesRangesAsFlannelsOwnPluginDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env    string
		addrs  []string // of the first pod
		theirs string   // what flannel's own plugin would find, and ipMasqElsewhere
	}{
		"IPv4": {onlyIPv4, []string{"10.244.1.2/24"},
			`{"cniVersion":"1.1.0","name":"cbr0","type":"bridge","hairpinMode":true,"isDefaultGateway":true,"isGateway":true,"ipMasq":false,"ipMasqElsewhere":true,"mtu":1450,
			 "ipam":{"type":"host-local","dataDir":"LEASES","ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}]}}`},
		"IPv6": {"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
			[]string{"fd00:10:244:1::2/64"},
			`{"cniVersion":"1.1.0","name":"cbr0","type":"bridge","hairpinMode":true,"isDefaultGateway":true,"isGateway":true,"ipMasq":false,"ipMasqElsewhere":true,"mtu":1430,
			 "ipam":{"type":"host-local","dataDir":"LEASES","ranges":[[{"subnet":"fd00:10:244:1::/64"}]],"routes":[{"dst":"fd00:10:244::/48"}]}}`},
		"dual stack": {dualStack, []string{"10.244.1.2/24", "fd00:10:244:1::2/64"},
			`{"cniVersion":"1.1.0","name":"cbr0","type":"bridge","hairpinMode":true,"isDefaultGateway":true,"isGateway":true,"ipMasq":false,"ipMasqElsewhere":true,"mtu":1430,
			 "ipam":{"type":"host-local","dataDir":"LEASES","ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:10:244:1::/64"}]],
			 "routes":[{"dst":"10.244.0.0/16"},{"dst":"fd00:10:244::/48"}]}}`},
		"several networks": {"FLANNEL_NETWORK=10.1.0.0/16,192.168.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
			[]string{"10.1.17.2/24"},
			`{"cniVersion":"1.1.0","name":"cbr0","type":"bridge","hairpinMode":true,"isDefaultGateway":true,"isGateway":true,"ipMasq":false,"ipMasqElsewhere":true,"mtu":1472,
			 "ipam":{"type":"host-local","dataDir":"LEASES","ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"192.168.0.0/16"}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.env)
			conf := w.conf(nil)
			a, b := w.pod("a"), w.pod("b")
			a.must(cni.STATUS, conf)
			res, other := a.add(conf), b.add(conf)
			var got []string
			for i, ip := range res.IPs {
				got = append(got, ip.Address.String())
				require.Equal(t, ip.Address.Masked().Addr().Next(), ip.Gateway)
				reach(t, a.ns, ip.Gateway)
				reach(t, b.ns, ip.Address.Addr())
				reach(t, a.ns, other.IPs[i].Address.Addr())
			}
			require.Equal(t, c.addrs, got)
			eth0, err := nstest.Netlink(t, a.ns).LinkByName("eth0")
			require.NoError(t, err)
			require.Contains(t, c.env, "FLANNEL_MTU="+strconv.Itoa(eth0.Attrs().MTU)+"\n")
			require.Equal(t, []string{".attachments-cbr0/a:eth0", ".attachments-cbr0/b:eth0", "a", "b"}, w.records())
			theirs, err := os.ReadFile(w.file("flannel/a"))
			require.NoError(t, err)
			require.JSONEq(t, strings.ReplaceAll(c.theirs, "LEASES", w.file("leases")), string(theirs))
			a.check(conf)
			b.check(conf)

			a.must(cni.DEL, conf)
			b.check(conf)
			require.Equal(t, []string{".attachments-cbr0/b:eth0", "b"}, w.records())
			b.must(cni.DEL, conf)
			b.must(cni.DEL, conf)
			w.empty()
		})
	}
}

func TestWhatTheDelegateStatesWinsAndWhatIPAMStatesIsCompleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	conf := w.conf(map[string]any{
		"delegate": map[string]any{"type": "bridge", "bridge": "br7", "mtu": 1400, "ipMasq": true, "isGateway": false},
		"ipam": map[string]any{"dataDir": w.file("leases"), "routes": []map[string]any{
			{"dst": "10.96.0.0/12"}, {"dst": "10.244.0.0/16", "gw": "10.244.1.9"}}},
		"dns": map[string]any{"domain": "cluster.local"},
	})
	p := w.pod("a")
	res := p.add(conf)
	var routes []string
	for _, r := range res.Routes {
		routes = append(routes, r.Dst.String()+" "+r.GW.String())
	}
	require.Equal(t, []string{"10.96.0.0/12 invalid IP", "10.244.0.0/16 10.244.1.9", "fd00:10:244::/48 invalid IP"}, routes)
	require.Equal(t, "cluster.local", res.DNS.Domain)
	br, err := nstest.Netlink(t, w.node).LinkByName("br7")
	require.NoError(t, err)
	require.Equal(t, 1400, br.Attrs().MTU)
	require.NotContains(t, nstest.DumpLinks(w.node), "10.244.1.1/24", "no gateway address on the bridge")
	p.check(conf)
	p.must(cni.DEL, conf)
	w.empty()
}

func TestWithoutFlannelsMasqueradingTheBridgeDoesItAndSparesTheNetwork(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := newWorld(t, strings.ReplaceAll(dualStack, "true", "false"))
	conf := w.conf(nil)
	p := w.pod("a")
	p.add(conf)
	for _, to := range outside {
		reach(t, p.ns, to)
	}
	var rules string
	require.NoError(t, w.node.Do(func() error {
		out, err := exec.Command("nft", "list", "table", "inet", "cniblocks").Output()
		rules = string(out)
		return err
	}))
	require.Contains(t, rules, "10.244.0.0/16")
	require.Contains(t, rules, "fd00:10:244::/48")
	p.check(conf)
	require.Zero(t, w.gc(conf, p).Status)
	p.check(conf)
	w.env("")
	require.Zero(t, w.gc(conf, p).Status, "the record of the pod says what is needed")
	p.check(conf)
	require.NoError(t, os.RemoveAll(w.file("flannel")))
	require.Contains(t, w.gc(conf, p).String(), "subnet.env")
	reach(t, p.ns, outside[0])
	require.Zero(t, w.gc(conf).Status)
	w.empty()
}

func TestASecondInterfaceHasItsOwnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	conf := w.conf(nil)
	first, second := w.pod("a"), w.pod("a")
	second.ifName, second.ns = "net1", first.ns
	first.add(conf)
	second.add(conf)
	require.Equal(t, []string{".attachments-cbr0/a:eth0", ".attachments-cbr0/a:net1", "a"}, w.records())
	second.must(cni.DEL, conf)
	require.Equal(t, []string{".attachments-cbr0/a:eth0", "a"}, w.records())
	first.check(conf)
	second.add(conf)
	first.must(cni.DEL, conf)
	require.Equal(t, []string{".attachments-cbr0/a:net1"}, w.records())
	second.must(cni.DEL, conf)
	w.empty()
}

func TestTheSameContainerInTwoNetworksHasTwoRecords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	conf, other := w.conf(nil), w.conf(map[string]any{"name": "blue", "delegate": map[string]any{"bridge": "br7"}})
	w.env(strings.Replace(onlyIPv4, "10.244.1.1", "10.244.9.1", 1))
	blue := w.pod("a")
	blue.ifName = "net1"
	blue.add(other)
	w.env(onlyIPv4)
	p := w.pod("a")
	p.ns = blue.ns
	p.add(conf)
	require.Equal(t, []string{".attachments-blue/a:net1", ".attachments-cbr0/a:eth0", "a"}, w.records())
	p.must(cni.DEL, conf)
	require.Equal(t, []string{".attachments-blue/a:net1", "a"}, w.records())
	blue.check(other)
	blue.must(cni.DEL, other)
	require.Empty(t, w.records())
}

func TestDELLeavesNothingWhateverItMissed(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(w *world, p *pod){
		"no record":           func(w *world, _ *pod) { _ = os.RemoveAll(w.file("flannel")) },
		"a torn record":       func(w *world, _ *pod) { _ = os.Truncate(w.file("flannel/a"), 40) },
		"an empty record":     func(w *world, _ *pod) { _ = os.Truncate(w.file("flannel/a"), 0) },
		"only flannel's name": func(w *world, _ *pod) { _ = os.RemoveAll(w.file("flannel/.attachments-cbr0")) },
		"a file in the way": func(w *world, _ *pod) {
			_ = os.RemoveAll(w.file("flannel"))
			_ = os.WriteFile(w.file("flannel"), nil, 0o600)
		},
		"no subnet.env":           func(w *world, _ *pod) { w.env("") },
		"neither file":            func(w *world, _ *pod) { _ = os.RemoveAll(w.file("flannel")); w.env("") },
		"a malformed subnet.env":  func(w *world, _ *pod) { _ = os.RemoveAll(w.file("flannel")); w.env("FLANNEL_MTU=x\n") },
		"no namespace":            func(_ *world, p *pod) { p.ns = nil },
		"no namespace, no record": func(w *world, p *pod) { p.ns = nil; _ = os.RemoveAll(w.file("flannel")) },
		"another range by now":    func(w *world, _ *pod) { w.env(strings.ReplaceAll(dualStack, "244.1.1", "244.7.1")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dualStack)
			conf := w.conf(nil)
			p := w.pod("a")
			p.add(conf)
			harm(w, p)
			p.must(cni.DEL, conf)
			if name == "a file in the way" {
				require.NoError(t, os.Remove(w.file("flannel")))
			}
			w.empty()
			w.env(dualStack)
			again := w.pod("a")
			again.add(conf)
			again.check(conf)
		})
	}
}

func TestDELLeavesNothingWhateverTheConfigurationBecame(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]map[string]any{
		"a delegate of another kind": {"delegate": "bridge"},
		"another delegate":           {"delegate": map[string]any{"type": "not-there"}},
		"a delegate with a name":     {"delegate": map[string]any{"name": "x", "ipam": map[string]any{}}},
		"itself":                     {"delegate": map[string]any{"type": "flannel"}},
		"no delegate":                {"delegate": nil},
		"no ipam":                    {"ipam": nil},
		"broken routes":              {"ipam": map[string]any{"routes": "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dualStack)
			p := w.pod("a")
			p.add(w.conf(nil))
			p.must(cni.DEL, w.conf(keys))
			w.empty()
		})
	}
}

func TestANewRangeOfTheNodeIsForNewPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	conf := w.conf(nil)
	old := w.pod("old")
	old.add(conf)
	w.env(strings.ReplaceAll(onlyIPv4, "244.1.1", "244.7.1"))
	old.check(conf)
	fresh := w.pod("fresh")
	require.Equal(t, "10.244.7.2/24", fresh.add(conf).IPs[0].Address.String())
	reach(t, fresh.ns, netip.MustParseAddr("10.244.1.2"))
	fresh.check(conf)
	old.check(conf)
	old.must(cni.DEL, conf)
	fresh.must(cni.DEL, conf)
	w.empty()
}

func TestRuntimeConfigurationReachesTheDelegate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	conf := w.conf(map[string]any{"runtimeConfig": map[string]any{"mac": "02:00:00:00:00:07", "ips": []string{"10.244.1.77"}}})
	p := w.pod("a")
	res := p.add(conf)
	require.Equal(t, "10.244.1.77/24", res.IPs[0].Address.String())
	eth0, err := nstest.Netlink(t, p.ns).LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, "02:00:00:00:00:07", eth0.Attrs().HardwareAddr.String())
	p.check(conf)
	p.must(cni.DEL, conf)
	w.empty()
}

func TestASecondADDHarmsNothingOfTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	conf := w.conf(nil)
	p := w.pod("a")
	p.add(conf)
	before, records := w.dump(), w.records()
	p.refused(cni.ADD, conf, "a")
	require.Equal(t, before, w.dump())
	p.refused(cni.ADD, w.conf(map[string]any{"delegate": map[string]any{"bridge": "br9"}}), "a")
	require.Equal(t, records, w.records())
	p.check(conf)
	p.must(cni.DEL, conf)
	w.empty()
}

func TestAnADDThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.ReplaceAll(onlyIPv4, "10.244.1.1/24", "10.244.1.1/30"))
	conf := w.conf(nil)
	only := w.pod("only")
	only.add(conf)
	before, records := w.dump(), w.records()
	p := w.pod("more")
	require.Equal(t, cni.ErrTryAgain, p.refused(cni.ADD, conf, "no address left"))
	require.Equal(t, before, w.dump())
	require.Equal(t, records, w.records())
	require.Equal(t, cni.ErrNotAvailable, p.refused(cni.STATUS, conf, "no address left"))
	only.must(cni.DEL, conf)
	w.empty()
}

func TestARecordOfAnEarlierADDThatNeverEndedIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	conf := w.conf(nil)
	require.NoError(t, os.MkdirAll(w.file("flannel/.attachments-cbr0"), 0o700))
	require.NoError(t, os.WriteFile(w.file("flannel/.attachments-cbr0/a:eth0"), []byte(`{"type":"not-there`), 0o600))
	p := w.pod("a")
	p.add(conf)
	p.check(conf)
	p.must(cni.DEL, conf)
	w.empty()
}

func TestWithoutSubnetEnvADDAndSTATUSSayWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	conf := w.conf(nil)
	p := w.pod("a")
	for verb, code := range map[cni.Verb]cni.Code{cni.ADD: cni.ErrTryAgain, cni.CHECK: cni.ErrTryAgain, cni.STATUS: cni.ErrNotAvailable} {
		require.Equal(t, code, p.refused(verb, conf, w.file("subnet.env")+": no such file or directory; start flanneld or 'cniblocks agent' on this node"), verb)
	}
	w.env(strings.Replace(dualStack, "1430", "large", 1))
	says := `netconf: key "subnetFile": ` + w.file("subnet.env") + `: subnet.env: line 5: key FLANNEL_MTU is "large"; want 68 to 65535 bytes`
	for verb, code := range map[cni.Verb]cni.Code{cni.ADD: cni.ErrConfig, cni.STATUS: cni.ErrNotAvailable} {
		require.Equal(t, code, p.refused(verb, conf, says), verb)
	}
	w.empty()
}

func TestSTATUSIsTheDelegatesToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	p := w.pod("a")
	conf := w.conf(map[string]any{"delegate": map[string]any{"type": "not-there"}})
	require.Equal(t, cni.ErrNotAvailable, p.refused(cni.STATUS, conf, `delegate "not-there" is neither linked in nor in CNI_PATH`))
	require.NoError(t, nstestRun(w, "ip", "link", "add", "cni0", "type", "vxlan", "id", "7", "dstport", "4789"))
	require.Equal(t, cni.ErrNotAvailable, p.refused(cni.STATUS, w.conf(nil), "cni0"))
}

func nstestRun(w *world, name string, args ...string) error {
	return w.node.Do(func() error { return exec.Command(name, args...).Run() })
}

func TestAWrongConfigurationNamesKeyValueAndRemedy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	p := w.pod("a")
	for says, keys := range map[string]map[string]any{
		`netconf: key "delegate.name" is "x"; want it removed: that of the network is handed down`:                   {"delegate": map[string]any{"name": "x"}},
		`netconf: key "delegate.ipam" is {}; want it removed: state "ipam" beside "delegate"`:                        {"delegate": map[string]any{"ipam": map[string]any{}}},
		`netconf: key "delegate.type" is 7; want the name of the plugin that attaches the pod, or none for "bridge"`: {"delegate": map[string]any{"type": 7}},
		`netconf: key "delegate.type" is ""; want the name`:                                                          {"delegate": map[string]any{"type": ""}},
		`netconf: key "delegate.type" is "flannel": it would call itself; want the plugin`:                           {"delegate": map[string]any{"type": "flannel"}},
		`netconf: key "delegate" is a JSON string; want an object`:                                                   {"delegate": "bridge"},
		`netconf: key "subnetFile" is a JSON number; want a string`:                                                  {"subnetFile": 7},
		`netconf: key "dataDir" is a JSON bool; want a string`:                                                       {"dataDir": true},
		`netconf: key "ipam" is a JSON array; want an object`:                                                        {"ipam": []any{}},
		`netconf: key "ipam.type" is 7; want the name of an IPAM plugin, or none for "host-local"`:                   {"ipam": map[string]any{"type": 7}},
		`netconf: key "ipam.routes": key "dst" of a route: "x" is no prefix such as 0.0.0.0/0`:                       {"ipam": map[string]any{"routes": []any{map[string]any{"dst": "x"}}}},
		`key "mtu" is 67; want 68 to 65535`:                                                                          {"delegate": map[string]any{"mtu": 67}},
	} {
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.STATUS} {
			require.Equal(t, cni.ErrConfig, p.refused(verb, w.conf(keys), says), says)
		}
	}
	a := p.call(cni.STATUS, w.conf(map[string]any{"subnetfile": "x", "delegat": 1}))
	require.Contains(t, a.Err, `key "delegat" is not known and ignored; did you mean "delegate"?`)
	w.empty()
}

func TestGCTakesWhatTheRuntimeForgotAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	conf := w.conf(nil)
	keep, lost, second := w.pod("keep"), w.pod("lost"), w.pod("keep")
	second.ifName, second.ns = "net1", keep.ns
	keep.add(conf)
	second.add(conf)
	lost.add(conf)
	elsewhere := w.pod("elsewhere") // through another delegate network, whose records are not ours to judge
	w.env(strings.ReplaceAll(dualStack, "244.1.1", "244.7.1"))
	blue := w.conf(map[string]any{"name": "blue", "delegate": map[string]any{"bridge": "br7"}})
	elsewhere.add(blue)
	w.env(dualStack)

	require.Zero(t, w.gc(conf, keep).Status)
	require.Equal(t, []string{".attachments-blue/elsewhere:eth0", ".attachments-cbr0/keep:eth0", "elsewhere", "keep"}, w.records())
	require.Len(t, w.leases(), 2)
	keep.check(conf)
	elsewhere.check(blue)

	require.Zero(t, w.gc(blue).Status)
	require.Zero(t, w.gc(conf).Status)
	w.empty()
	require.NoDirExists(t, w.file("flannel/.attachments-cbr0"))
}

func TestGCDeletesByTheRecordWhatTheDelegateOfTodayDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	p := w.pod("a")
	p.add(w.conf(map[string]any{"ipam": map[string]any{"dataDir": w.file("elsewhere")}}))
	require.FileExists(t, w.file("elsewhere/cbr0/10.244.1.2"))
	require.Zero(t, w.gc(w.conf(nil)).Status)
	require.NoFileExists(t, w.file("elsewhere/cbr0/10.244.1.2"))
	w.empty()
}
