package overlay_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return err
}

// needs are the device kinds that not every kernel has.
var needs = map[string][]nstest.Feature{
	"vxlan-gpe": {nstest.GRE}, // the running kernel's vxlan may lack the L3 form; the other one is known to have it
	"gre":       {nstest.GRE}, "gre point-to-point": {nstest.GRE}, "gre over IPv6": {nstest.IP6GRE}, "gretap as one layer 2": {nstest.GRETap},
	"ipip": {nstest.IPIP, nstest.SIT}, "ipip over IPv6": {nstest.IP6Tnl},
	"geneve": {nstest.Geneve}, "geneve over IPv6": {nstest.Geneve}, "wireguard": {nstest.WireGuard},
}

// leases is an IPAM that leases from this machine's ranges, in its own directory.
var leases = map[string]any{"type": "host-local", "dataDir": "LEASES"}

func TestTheSameTwoFilesOnEveryMachineJoinTheirPods(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]map[string]any{
		"vxlan":                     {},
		"vxlan-gpe":                 {"gpe": true},
		"gre":                       {"encap": "gre"},
		"gre point-to-point":        {"encap": "gre", "mode": "point-to-point"},
		"gre over IPv6":             {"encap": "gre", "underlay": "ipv6"},
		"gretap as one layer 2":     {"encap": "gre", "l2": true, "delegate": map[string]any{"type": "bridge", "bridge": "br0", "isGateway": true, "ipam": leases}},
		"ipip":                      {"encap": "ipip"},
		"ipip over IPv6":            {"encap": "ipip", "underlay": "ipv6"},
		"geneve":                    {"encap": "geneve"},
		"geneve over IPv6":          {"encap": "geneve", "underlay": "ipv6"},
		"wireguard":                 {"encap": "wireguard"},
		"vxlan with directRouting":  {"directRouting": true},
		"vxlan over IPv6":           {"underlay": "ipv6"},
		"host-gw":                   {"type": "host-gw", "encap": nil},
		"host-gw without peersFile": {"type": "host-gw", "encap": nil, "peersFile": nil},
		"vxlan as one layer 2":      {"l2": true, "delegate": map[string]any{"type": "bridge", "bridge": "br0", "isGateway": true, "ipam": leases}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, needs[name]...)
			w := newWorld(t, 3)
			w.keys = name == "wireguard"
			file := w.peers("a", "b", "c")
			if _, inline := keys["peersFile"]; inline {
				doc, err := os.ReadFile(file)
				require.NoError(t, err)
				keys["peers"], keys["network"] = field(t, doc, "peers"), field(t, doc, "network")
			}
			var pods []*pod
			var results []*cni.Result
			for _, m := range w.machines {
				conf := m.conf(keys)
				for _, id := range []string{"1", "2"} {
					p := m.pod(m.name + id)
					results = append(results, p.add(conf))
					pods = append(pods, p)
				}
			}
			for _, from := range pods {
				for _, to := range results {
					for _, ip := range to.IPs {
						reach(t, from.ns, ip.Address.Addr())
					}
				}
			}
			for i, p := range pods {
				conf := p.m.conf(keys)
				if !strings.Contains(name, "layer 2") {
					reach(t, p.ns, netip.MustParseAddr("192.0.2.99"))
					reach(t, p.ns, netip.MustParseAddr("2001:db8::99"))
					reach(t, p.m.ns, results[(i+2)%6].IPs[0].Address.Addr())
				}
				p.check(conf)
			}
			for _, p := range pods {
				p.must(cni.DEL, p.m.conf(keys))
				require.NotContains(t, nstest.Dump(p.m.ns), "cniblocks/pods/"+p.id)
			}
		})
	}
}

func TestTheWireGuardKeyIsKeptWhereKeyDirSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.peers("a")
	a, there := w.machines[0], filepath.Join(w.dir, "keys")
	a.pod("1").call(cni.ADD, a.conf(map[string]any{"encap": "wireguard", "keyDir": there})) // which a kernel without WireGuard refuses
	require.FileExists(t, filepath.Join(there, "pods", "wireguard.key"))
	require.NoDirExists(t, filepath.Join(w.dir, "a", "lib"))
	require.Equal(t, cni.ErrUnsupportedField, a.pod("1").refused(cni.ADD, a.conf(map[string]any{"keyDir": there}), `key "keyDir" is .*, which vxlan does not have`))
}

func field(t *testing.T, doc []byte, key string) any {
	t.Helper()
	return decode(t, doc)[key]
}

func TestAChainFromOverlayOverHostGWToBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.peers("a", "b", "c")
	near := filepath.Join(w.dir, "near.json")
	require.NoError(t, os.WriteFile(near, []byte(`{"network":["10.244.0.0/16","fd00:10:244::/48"],"peers":[
		{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]},
		{"name":"b","endpoint":["192.0.2.12","2001:db8::12"],"pods":["10.244.2.0/24","fd00:10:244:2::/64"]}]}`), 0o600))
	far := func(m *machine, names ...string) string {
		path := filepath.Join(w.dir, m.name+"-far.json")
		b, err := os.ReadFile(w.peers(names...))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	var pods []*pod
	var results []*cni.Result
	for i, m := range w.machines {
		leases := map[string]any{"type": "host-local", "dataDir": filepath.Join(w.dir, m.name, "leases")}
		conf := m.conf(map[string]any{"peersFile": far(m, "a", "b", "c"), "delegate": map[string]any{"type": "bridge", "isDefaultGateway": true, "ipam": leases}})
		if i < 2 { // a and b are near each other, c is a far site
			conf = m.conf(map[string]any{"peersFile": far(m, m.name, "c"), "delegate": map[string]any{"type": "host-gw", "peersFile": near,
				"delegate": map[string]any{"type": "bridge", "isDefaultGateway": true, "ipam": leases}}})
		}
		p := m.pod(m.name)
		results = append(results, p.add(conf))
		pods = append(pods, p)
		p.check(conf)
		_, _, errs := p.call(cni.STATUS, conf)
		require.Empty(t, errs)
	}
	for _, p := range pods {
		for _, r := range results {
			for _, ip := range r.IPs {
				reach(t, p.ns, ip.Address.Addr())
			}
		}
		reach(t, p.ns, netip.MustParseAddr("192.0.2.99"))
	}
	d := nstest.Dump(w.machines[0].ns)
	require.Regexp(t, `10\.244\.2\.0/24 dev eth0 via 192\.0\.2\.12`, d)
	require.Regexp(t, `10\.244\.3\.0/24 dev cb-vxlan`, d)
}

func TestAPluginThatMeetsItselfIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.peers("a")
	m := w.machines[0]
	conf := m.conf(map[string]any{"delegate": map[string]any{"type": "host-gw", "delegate": map[string]any{"type": "overlay", "encap": "gre", "delegate": map[string]any{"type": "bridge"}}}})
	before := nstest.Dump(m.ns)
	code := m.pod("x").refused(cni.ADD, conf, `overlay meets itself for network "pods" in the chain of delegation \[overlay host-gw overlay\]`)
	require.Equal(t, cni.ErrConfig, code)
	require.Equal(t, before, nstest.Dump(m.ns))
}

func TestADDRefusesWhatCannotWorkAndNamesTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.peers("a")
	m := w.machines[0]
	before := nstest.Dump(m.ns)
	for says, keys := range map[string]map[string]any{
		`"encap" is "vxlam"; want one of vxlan.*vxlan perhaps`: {"encap": "vxlam"},
		`"vni" is 7, which gre does not have`:                  {"encap": "gre", "vni": 7},
		`"encap" is "vxlan", and host-gw encapsulates nothing`: {"type": "host-gw"},
		`"vni" is 16777216`:                                    {"vni": 1 << 24},
		`"delegate" of overlay has no "type"`:                  {"delegate": map[string]any{}},
		`"peersFile" and "peers" are both there`:               {"peers": []any{}},
		`"nosuch" is neither linked in nor in CNI_PATH`:        {"delegate": map[string]any{"type": "nosuch"}},
		`peersFile.*no such file`:                              {"peersFile": "/nowhere/peers.json"},
		`node.*"z"`:                                            {"node": "z"},
		`neither "peersFile" nor "peers" is stated`:            {"peersFile": nil},
		`"portIsolation" with "l2" and encap "gre"`:            {"encap": "gre", "l2": true, "delegate": map[string]any{"type": "bridge", "portIsolation": true}},
		`"l2".*point-to-point|point-to-point.*"l2"`:            {"encap": "gre", "l2": true, "mode": "point-to-point"},
		`"mode" is "mesh"`:                                     {"encap": "gre", "mode": "mesh"},
		`"directRouting" is true, which host-gw does not have`: {"type": "host-gw", "encap": nil, "directRouting": true},
	} {
		m.pod("x").refused(cni.ADD, m.conf(keys), says)
		require.Equal(t, before, nstest.Dump(m.ns), says)
	}
}

func TestWhatTheDelegateStatesItselfWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.peers("a")
	m := w.machines[0]
	conf := m.conf(map[string]any{"delegate": map[string]any{"type": "bridge", "bridge": "own0", "mtu": 1333, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.244.1.128/25", "routes": []any{map[string]any{"dst": "10.99.0.0/16"}}}}})
	p := m.pod("x")
	status, out, errs := p.call(cni.ADD, conf)
	require.Zero(t, status, "%s", out)
	require.Contains(t, errs, `"delegate.ipMasq" is true and counts as false`)
	res, err := cni.ParseResult(out)
	require.NoError(t, err)
	require.Equal(t, "own0", res.Interfaces[0].Name)
	require.Equal(t, 1333, res.Interfaces[2].MTU)
	require.Equal(t, "10.244.1.130/25", res.IPs[0].Address.String())
	require.Len(t, res.Routes, 1)
}

func TestDELNeedsNeitherPeersNorState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers("a", "b")
	m := w.machines[0]
	conf := m.conf(nil)
	p := m.pod("x")
	p.add(conf)
	require.NoError(t, os.Remove(filepath.Join(w.dir, "peers.json")))
	require.NoError(t, os.RemoveAll(filepath.Join(w.dir, m.name, "run")))
	p.must(cni.DEL, conf)
	d := nstest.Dump(m.ns)
	require.NotContains(t, d, "cniblocks/pods/x")
	require.Contains(t, d, "cb-vxlan", "the overlay is the node's")
}

func TestPodsFollowAPeerThatJoinsLeavesOrMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.peers("a", "b")
	m := w.machines[0]
	conf := m.conf(nil)
	p := m.pod("x")
	p.add(conf)
	require.NotContains(t, nstest.Dump(m.ns), "10.244.3.0/24")
	w.peers("a", "b", "c")
	m.pod("y").add(conf)
	require.Contains(t, nstest.Dump(m.ns), "10.244.3.0/24 dev cb-vxlan")
	w.peers("a", "c")
	reports, err := overlay.Up(t.Context(), m.ns, []byte(conf))
	require.NoError(t, err)
	require.Equal(t, "a", reports[0].Self)
	require.NotContains(t, nstest.Dump(m.ns), "10.244.2.0/24")
	require.NoError(t, run2(m, "ip", "route", "flush", "proto", "117"))
	_, err = overlay.Up(t.Context(), m.ns, []byte(conf))
	require.NoError(t, err)
	require.Contains(t, nstest.Dump(m.ns), "10.244.3.0/24 dev cb-vxlan")
}

func run2(m *machine, name string, args ...string) error {
	return m.ns.Do(func() error { return run(name, args...) })
}

func TestOverlayDownRemovesExactlyWhatIsOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers("a", "b")
	m := w.machines[0]
	conf := m.conf(nil)
	before := nstest.Dump(m.ns)
	_, err := overlay.Up(t.Context(), m.ns, []byte(conf))
	require.NoError(t, err)
	require.NotEqual(t, before, nstest.Dump(m.ns))
	require.NoError(t, overlay.Down(t.Context(), m.ns, []byte(conf)))
	require.Equal(t, before, nstest.Dump(m.ns))
	require.NoError(t, overlay.Down(t.Context(), m.ns, []byte(conf)), "twice is fine")
}

func decode(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(doc, &m))
	return m
}

func TestAfterARebootTheFirstADDRebuildsAll(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]func(dir string) error{
		"and /run is empty": os.RemoveAll,
		"and the files of the earlier boot are there": func(dir string) error {
			boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				return err
			}
			return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				earlier := strings.ReplaceAll(string(b), strings.TrimSpace(string(boot)), "00000000-0000-4000-8000-000000000000")
				return os.WriteFile(path, []byte(earlier), 0o600)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.peers("a", "b")
			m := w.machines[0]
			far := w.machines[1].pod("far").add(w.machines[1].conf(nil))
			m.pod("x").add(m.conf(nil))
			for _, link := range []string{"cni0", device(t, m)} {
				require.NoError(t, run2(m, "ip", "link", "del", link))
			}
			require.NoError(t, run2(m, "nft", "flush", "ruleset"))
			require.NoError(t, files(filepath.Join(w.dir, m.name, "run")))
			p := m.pod("y")
			p.add(m.conf(nil))
			for _, ip := range far.IPs {
				reach(t, p.ns, ip.Address.Addr())
			}
			reach(t, p.ns, netip.MustParseAddr("192.0.2.99"))
			p.check(m.conf(nil))
		})
	}
}

func device(t *testing.T, m *machine) string {
	t.Helper()
	for word := range strings.FieldsSeq(nstest.DumpLinks(m.ns)) {
		if strings.HasPrefix(word, "cb-vxlan") {
			return word
		}
	}
	t.Fatal("there is no overlay device")
	return ""
}
