//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	overlayplugin "github.com/cniblocks/cniblocks/plugins/overlay"
)

// status asks the plugin of the machine, and returns what it says.
func (m *machine) status() string {
	m.w.t.Helper()
	env := map[string]string{"CNI_COMMAND": "STATUS", "CNI_PATH": "/nowhere"}
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "pods", "type": "overlay", "encap": "vxlan", "stateDir": %q,
		"delegate": {"type": "bridge", "ipam": {"type": "host-local", "dataDir": %q}}}`, filepath.Join(m.dir, "run"), filepath.Join(m.dir, "leases"))
	var stdout, stderr bytes.Buffer
	require.NoError(m.w.t, m.ns.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		cni.Run(ctx, overlayplugin.Plugin{}, cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}},
			func(k string) string { return env[k] }, strings.NewReader(conf), &stdout, &stderr)
		return nil
	}))
	if stdout.Len() == 0 {
		return ""
	}
	var e struct {
		Code cni.Code
		Msg  string
	}
	require.NoError(m.w.t, json.Unmarshal(stdout.Bytes(), &e))
	return fmt.Sprintf("code %d: %s", e.Code, e.Msg)
}

// six gives eth0 back what it loses when IPv6 or the link goes.
const six = "; ip -6 addr replace 2001:db8::11/64 dev eth0 nodad; ip route replace default via 192.0.2.254"

// obstacles are what makes it impossible to reach other nodes: where it is done, how it is undone, what is said of it.
var obstacles = map[string]struct{ do, undo, says string }{
	"the address goes away": {"ip addr del 192.0.2.11/24 dev eth0", "ip addr add 192.0.2.11/24 dev eth0" + six,
		`has lost its ipv4 address`},
	"its link goes down": {"ip link set eth0 down", "ip link set eth0 up" + six, `has lost its ipv[46] address|link eth0, which has .* is down`},
	"its link goes away": {"ip link del eth0", "", `has lost its ipv[46] address`},
	"no way to anybody": {"ip route add blackhole 192.0.2.12/32; ip route add blackhole 2001:db8::12/128",
		"ip route del blackhole 192.0.2.12/32; ip route del blackhole 2001:db8::12/128", `no peer of network "pods" can be reached: peer ".*": no route to 192.0.2.12`},
	"no carrier":        {"", "", `no peer of network "pods" can be reached: peer ".*": the way to 192.0.2.12 is over eth0, which has no carrier`},
	"an MTU for nobody": {"ip link set eth0 mtu 70", "ip link set eth0 mtu 1500" + six, `bytes are left for pods|has lost its ipv6 address|MTU 70`},
}

func TestWhateverMakesTheWayToOtherNodesImpossibleIsNamedByReadinessAndSTATUSAndPasses(t *testing.T) {
	t.Parallel()
	sources := map[string]func(*machine, *etcdtest.Server, string){
		"file": func(m *machine, _ *etcdtest.Server, encap string) { m.byFile(encap) },
		"file, node found by its address": func(m *machine, _ *etcdtest.Server, encap string) {
			m.byFile(encap).Name = ""
		},
		"etcd, stated address": func(m *machine, s *etcdtest.Server, _ string) { m.byEtcd(s, 0) },
		"etcd, address of a link": func(m *machine, s *etcdtest.Server, _ string) {
			m.byEtcd(s, 0).Endpoints = agent.Endpoints{Interface: regexp.MustCompile("eth.*")}
		},
		"etcd, address of the default route": func(m *machine, s *etcdtest.Server, _ string) { m.byEtcd(s, 0).Endpoints = agent.Endpoints{} },
	}
	kinds := map[string][]nstest.Feature{"vxlan": {nstest.VXLAN}, "host-gw": nil, "gre": {nstest.GRE, nstest.IP6GRE}, "ipip": {nstest.IPIP, nstest.SIT},
		"geneve": {nstest.Geneve}, "wireguard": {nstest.WireGuard}}
	for source, by := range sources {
		for encap, needs := range kinds {
			config, known := configs[encap]
			if !known && !strings.HasPrefix(source, "file") {
				continue
			}
			t.Run(source+" "+encap, func(t *testing.T) {
				t.Parallel()
				nstest.Need(t, needs...)
				w := newWorld(t, 2)
				var s *etcdtest.Server
				if strings.HasPrefix(source, "file") {
					w.peers(w.machines...)
				} else {
					s = etcdtest.New(t)
					s.Ctl(t, "put", configKey, config)
				}
				for _, m := range w.machines {
					by(m, s, encap)
					m.Resync = time.Hour
				}
				if encap == "wireguard" {
					w.keyed()
				}
				for _, m := range w.machines {
					m.run()
				}
				for _, m := range w.machines {
					m.ready()
					m.pods = m.Status().Ranges
					m.attach(m.pods...)
				}
				m := w.machines[0]
				until(t, "both", func() bool { return m.Status().Peers == 2 })
				w.reachAll()
				for name, harm := range obstacles {
					if name == "an MTU for nobody" && encap == "host-gw" && s != nil {
						continue // IPv4 goes through anything
					}
					t.Log(name)
					before := m.file()
					w.harm(m, name, harm.do)
					says := regexp.MustCompile(harm.says)
					if encap == "wireguard" { // a peer may have it from a router that translates
						says = regexp.MustCompile(harm.says + "|there is no way out of this node: none of its links has its endpoint")
					}
					until(t, name, func() bool {
						st := m.Status()
						return !st.Ready && says.MatchString(strings.Join(st.Reasons, "\n"))
					})
					until(t, "STATUS", func() bool { return strings.Contains(m.status(), "code 50: ") && says.MatchString(m.status()) })
					require.Equal(t, before.MTU, m.file().MTU)
					w.mend(m, name, harm.undo)
					m.ready()
					until(t, "no peer is left out", func() bool { return len(m.Status().Refused) == 0 }) // it is ready with one family
					require.NotContains(t, m.status(), "attaches no pods")
					until(t, "the node file as before", func() bool { return reflect.DeepEqual(before, m.file()) })
					w.reachAll()
				}
			})
		}
	}
}

func (w *world) harm(m *machine, name, do string) {
	w.t.Helper()
	if name == "no carrier" {
		in(w.t, w.wire, "ip link set dev "+m.name+" down")
		return
	}
	in(w.t, m.ns, do)
}

func (w *world) mend(m *machine, name, undo string) {
	w.t.Helper()
	switch name {
	case "no carrier":
		in(w.t, w.wire, "ip link set dev "+m.name+" up")
	case "its link goes away":
		nstest.Link(w.t, nstest.End{NS: m.ns, Name: "eth0", Addrs: []string{m.at[0].String() + "/24", m.at[1].String() + "/64"}}, nstest.End{NS: w.wire, Name: m.name})
		in(w.t, w.wire, "ip link set dev "+m.name+" master wire")
		nstest.AddRoute(w.t, m.ns, "default", "192.0.2.254")
	default:
		in(w.t, m.ns, undo)
	}
}

func TestANodeIsNotReadyBeforeItsNodeFileLetsPodsBeAttached(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 1)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("vxlan")
	m.run()
	m.ready()
	const often = 30 // the time between the two was short
	for range often {
		in(t, m.ns, "ip addr del 192.0.2.11/24 dev eth0")
		until(t, "a reason", func() bool { return m.file().Blocked != "" })
		require.False(t, m.Status().Ready)
		in(t, m.ns, "ip addr add 192.0.2.11/24 dev eth0")
		for begin := time.Now(); !m.Status().Ready; {
			require.Less(t, time.Since(begin), soon)
		}
		require.Empty(t, m.file().Blocked)
	}
	require.Empty(t, m.Status().Reasons)
}

func TestAnAgentThatStartsWithoutItsAddressSaysSoToPluginsAndGoesOnWhenTheAddressIsBack(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	for name, stated := range map[string]string{"node stated": "a", "node found by its address": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.peers(w.machines...)
			m := w.machines[0]
			m.byFile("vxlan").Name = stated
			m.run()
			m.ready()
			state := in(t, m.ns, "ip -d link show type vxlan; ip route show proto 117")
			m.stop()
			in(t, m.ns, "ip addr del 192.0.2.11/24 dev eth0; ip -6 addr del 2001:db8::11/64 dev eth0")
			m.byFile("vxlan").Name = stated
			m.Resync = time.Hour
			m.run()
			until(t, "a reason", func() bool {
				return regexp.MustCompile("has lost its ipv4 address|which peer is this machine").MatchString(m.file().Blocked)
			})
			require.False(t, m.Status().Ready)
			require.Contains(t, m.status(), "code 50: ")
			require.Equal(t, state, in(t, m.ns, "ip -d link show type vxlan; ip route show proto 117"), "the device keeps its address, and the routes stay")
			in(t, m.ns, "ip addr add 192.0.2.11/24 dev eth0"+six)
			m.ready()
			require.NotContains(t, m.status(), "attaches no pods")
		})
	}
}

func TestAKeyThatCannotBeReadIsNamedByReadinessAndSTATUS(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.WireGuard)
	w := newWorld(t, 1)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("wireguard")
	m.run()
	m.ready()
	m.stop()
	require.NoError(t, os.Chmod(filepath.Join(m.DataDir, "pods", "wireguard.key"), 0o644))
	m.byFile("wireguard")
	m.run()
	until(t, "a reason", func() bool { return strings.Contains(m.file().Blocked, "wireguard.key: others may read it") })
	require.False(t, m.Status().Ready)
	require.Contains(t, m.status(), "code 50: ")
	require.NoError(t, os.Chmod(filepath.Join(m.DataDir, "pods", "wireguard.key"), 0o600))
	m.ready()
	require.NotContains(t, m.status(), "attaches no pods")
}

func TestAnEncapsulationThatTheKernelLacksIsNamed(t *testing.T) {
	t.Parallel()
	lacking := ""
	for encap, f := range map[string]nstest.Feature{"gre": nstest.GRE, "ipip": nstest.IPIP, "geneve": nstest.Geneve, "wireguard": nstest.WireGuard} {
		if !nstest.Has(f) {
			lacking = encap
		}
	}
	if lacking == "" {
		t.Skip("lane: this kernel has all encapsulations, runs in the namespace lane")
	}
	w := newWorld(t, 1)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("host-gw") // whose node file an agent of another encapsulation finds
	m.run()
	m.ready()
	m.stop()
	m.byFile(lacking)
	m.run()
	until(t, "a reason", func() bool {
		return strings.Contains(strings.Join(m.Status().Reasons, "\n"), "this kernel has no links of kind")
	})
	until(t, "STATUS", func() bool { return strings.Contains(m.status(), "this kernel has no links of kind") })
	require.False(t, m.Status().Ready)
}
