package overlay_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func (m *machine) sh(line string) {
	m.w.t.Helper()
	require.NoError(m.w.t, m.ns.Do(func() error { return run("sh", "-c", line) }), line)
}

func TestWithoutAnAgentTooWhateverMakesTheWayToOtherMachinesImpossibleIsNamedBySTATUSAndADDAndByUp(t *testing.T) {
	t.Parallel()
	const six = "; ip -6 addr replace 2001:db8::11/64 dev eth0 nodad"
	obstacles := map[string]struct{ do, undo, says string }{
		"the address goes away": {"ip addr del 192.0.2.11/24 dev eth0", "ip addr add 192.0.2.11/24 dev eth0" + six, "has lost its ipv4 address"},
		"its link goes down":    {"ip link set eth0 down", "ip link set eth0 up" + six, "eth0, which has this node's ipv4 address 192.0.2.11, is down"},
		"no way to anybody": {"ip route add blackhole 192.0.2.12/32; ip route add blackhole 2001:db8::12/128",
			"ip route del blackhole 192.0.2.12/32; ip route del blackhole 2001:db8::12/128", `no peer of network "pods" can be reached: peer "b": no route to 192.0.2.12`},
		"no carrier":        {"", "", `no peer of network "pods" can be reached: peer "b": the way to 192.0.2.12 is over eth0, which has no carrier`},
		"an MTU for nobody": {"ip link set eth0 mtu 1279", "ip link set eth0 mtu 1500" + six, "bytes are left for pods|has lost its ipv6 address"},
	}
	for name, keys := range map[string]map[string]any{
		"vxlan": {}, "host-gw": {"type": "host-gw", "encap": nil}, "gre": {"encap": "gre"}, "ipip": {"encap": "ipip"}, "geneve": {"encap": "geneve"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, needs[name]...)
			w := newWorld(t, 2)
			w.peers("a", "b")
			a, b := w.machines[0], w.machines[1]
			conf := a.conf(keys)
			p := a.pod("1")
			p.must(cni.STATUS, conf)
			require.NotContains(t, nstest.Dump(a.ns), "cniblocks/pods", "STATUS makes nothing")
			p.add(conf)
			to := b.pod("2").add(b.conf(keys)).IPs[0].Address.Addr()
			reach(t, p.ns, to)
			for name, o := range obstacles {
				t.Log(name)
				carrier := func(way string) {
					if name == "no carrier" {
						require.NoError(t, w.wire.Do(func() error { return run("ip", "link", "set", "dev", a.name, way) }))
					}
				}
				a.sh(o.do)
				carrier("down")
				before := nstest.Dump(a.ns)
				require.Equal(t, cni.ErrNotAvailable, p.refused(cni.STATUS, conf, o.says))
				require.Equal(t, before, nstest.Dump(a.ns))
				now := conf
				if name == "an MTU for nobody" {
					now = with(conf, "stateDir", t.TempDir()) // else an ADD finds all applied
				}
				require.Equal(t, cni.ErrTryAgain, a.pod("3").refused(cni.ADD, now, o.says))
				reports, err := overlay.Up(t.Context(), a.ns, []byte(conf))
				require.Regexp(t, o.says, err)
				require.Empty(t, reports)
				a.sh(o.undo)
				carrier("up")
				p.must(cni.STATUS, conf)
				reports, err = overlay.Up(t.Context(), a.ns, []byte(conf))
				require.NoError(t, err)
				require.NotZero(t, reports[0].MTU)
				reach(t, p.ns, to)
			}
		})
	}
}

func TestAnEncapsulationThatTheKernelLacksIsNamedBySTATUSAndByUp(t *testing.T) {
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
	w := newWorld(t, 2)
	w.peers("a", "b")
	a := w.machines[0]
	conf := a.conf(map[string]any{"encap": lacking})
	require.Equal(t, cni.ErrNotAvailable, a.pod("1").refused(cni.STATUS, conf, "this kernel has no links of kind"))
	reports, err := overlay.Up(t.Context(), a.ns, []byte(conf))
	require.ErrorContains(t, err, "this kernel has no links of kind")
	require.Empty(t, reports)
}

func TestAPeerThatIsLeftOutIsAnErrorOfUpEachTimeAndTheOthersAreServed(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 3)
	path := w.peers("a", "b", "c")
	var doc map[string]any
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &doc))
	all := doc["peers"].([]any)
	all[1].(map[string]any)["pods"] = "10.244.3.0/23" // the document's fault
	a := w.machines[0]
	conf := a.conf(nil)
	write := func() {
		b, err := json.Marshal(doc)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	up := func(says string) {
		t.Helper()
		for range 2 {
			reports, err := overlay.Up(t.Context(), a.ns, []byte(conf))
			require.ErrorContains(t, err, `network "pods": left out: peer "b": `+says)
			require.Len(t, reports, 1)
			require.Len(t, reports[0].LeftOut, 1)
			require.Empty(t, reports[0].Warnings)
			require.Contains(t, nstest.Dump(a.ns), "10.244.3.0/24")
		}
	}
	write()
	up("pods 10.244.3.0/23 has bits set")
	all[1].(map[string]any)["pods"] = "10.244.2.0/24"
	write()
	a.sh("ip route add blackhole 192.0.2.12/32") // the node's
	up("no route to 192.0.2.12")
	require.Contains(t, nstest.Dump(a.ns), "10.244.2.0/24", "what leads there stays, for when there is a way again")
	a.pod("1").must(cni.STATUS, conf)
	a.sh("ip route del blackhole 192.0.2.12/32")
	_, err = overlay.Up(t.Context(), a.ns, []byte(conf))
	require.NoError(t, err)
	q := a.pod("1")
	q.add(conf)
	reach(t, q.ns, netip.MustParseAddr("192.0.2.99"))
}
