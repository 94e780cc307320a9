//go:build linux

package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/sysctl"
)

// harm is what another program does to a node, in words of the shell, where DEV is the tunnel, and what it changes.
type harm struct {
	do   string
	look string // prints what is to be as before
}

// set is a parameter that is set otherwise.
func set(key, value string) harm {
	return harm{do: "echo " + value + " > /proc/sys/" + key, look: "/proc/sys/" + key}
}

func sets(value string, keys ...string) (all []harm) {
	for _, k := range keys {
		all = append(all, set(k, value))
	}
	return all
}

// proof is how a line of docs/agent.md is proved.
type proof struct {
	needs   []nstest.Feature
	l2      bool
	backend string // of the SNAT
	legacy  bool   // iptables-restore and ip6tables-restore are those of the legacy tables
	before  string // what is done to the node before the agent starts
	harms   []harm
	prove   func(t *testing.T) // in place of harms
}

const (
	conf4, conf6 = "net/ipv4/conf/", "net/ipv6/conf/"
	links        = "ip -o -d link show DEV | sed 's/^[0-9]*: //; s/ promiscuity.*//; s/ state [A-Z]*//; s/ qdisc [a-z]*//; s/ qlen [0-9]*//'"
	port         = "ip -o -d link show DEV | grep -o 'master [a-z0-9]*\\|learning [a-z]*\\|neigh_suppress [a-z]*'"
	snat         = "nft list table inet cniblocks | sort"
	legacy       = "iptables-legacy-save -t %s | grep -v '^#' | sed 's/\\[.*//'"
	nftables     = "iptables-nft-save -t %s | grep -v '^#' | sed 's/\\[.*//'"
	drops        = "%[1]s -P FORWARD DROP && ip6tables-%[2]s -P FORWARD DROP"
)

// proofs are by the first column of the table.
var proofs = map[string]proof{
	"IPv4 forwarding":                           {harms: sets("0", "net/ipv4/ip_forward", conf4+"all/forwarding", conf4+"default/forwarding", conf4+"DEV/forwarding", conf4+"cni0/forwarding", conf4+"eth0/forwarding")},
	"IPv6 forwarding":                           {harms: sets("0", conf6+"all/forwarding")},
	"`rp_filter` of the tunnel":                 {harms: sets("1", conf4+"DEV/rp_filter")},
	"`proxy_arp` and `proxy_ndp` of the tunnel": {harms: sets("1", conf4+"DEV/proxy_arp", conf6+"DEV/proxy_ndp")},
	"the tunnel": {harms: []harm{
		{"ip link del DEV", links}, {"ip link set DEV down", links}, {"ip link set DEV mtu 1300", links}, {"ip link set DEV address 02:00:00:00:00:99", links},
		{"ip link set DEV down name harm0", links},
	}},
	"the tunnel's bridge and how it is a port of it": {l2: true, harms: []harm{
		{"ip link set DEV nomaster", port}, {"ip link set DEV type bridge_slave learning on", port}, {"ip link set DEV type bridge_slave neigh_suppress on", port},
		{"ip link add br9 type bridge && ip link set DEV master br9", port}, {"ip link set br0 down", "ip -o link show br0 up | grep -o br0:"},
	}},
	"addresses of the tunnel": {harms: []harm{{"ip addr flush dev DEV", "ip -o addr show DEV | sed 's/^[0-9]*: //'"}}},
	"routes": {harms: []harm{
		{"ip route del 10.244.2.0/24", "ip route show proto 117"}, {"ip -6 route del fd00:10:244:2::/64", "ip -6 route show proto 117"},
		{"ip route flush proto 117", "ip route show proto 117"}, {"ip route flush table main dev DEV", "ip route show proto 117"},
	}},
	"neighbour and FDB entries": {harms: []harm{
		{"ip neigh flush dev DEV nud permanent", "ip neigh show dev DEV nud permanent"},
		{"bridge fdb del $(bridge fdb show dev DEV | head -1 | cut -d' ' -f1) dev DEV dst 192.0.2.12", "bridge fdb show dev DEV"},
	}},
	"routing rules": {harms: []harm{
		{"ip rule del pref 32766", "ip rule"}, {"ip -6 rule del pref 32766", "ip -6 rule"}, {"ip rule del pref 0", "ip rule"}, {"ip -6 rule del pref 0", "ip -6 rule"},
		{"ip rule flush", "ip rule | grep -v default"},
	}},
	"nftables: table, chain, sets, elements, rules": {needs: []nstest.Feature{nstest.NFT}, harms: []harm{
		{"nft flush ruleset", snat}, {"nft delete table inet cniblocks", snat}, {"nft flush chain inet cniblocks postrouting", snat},
		{"nft flush set inet cniblocks src4-pods", snat}, {"nft flush set inet cniblocks except6-pods", snat},
		{"nft 'flush chain inet cniblocks postrouting; delete set inet cniblocks except4-pods; delete set inet cniblocks src4-pods'", snat},
		{"nft add table inet cniblocks '{ flags dormant; }'", snat}, {"nft chain inet cniblocks postrouting '{ policy drop; }'", snat},
		{"nft insert rule inet cniblocks postrouting accept", snat},
	}},
	"iptables in the form of nftables: jumps, chains, rules, the FORWARD policy": {backend: "iptables", needs: []nstest.Feature{nstest.IPTables},
		before: fmt.Sprintf(drops, "iptables-nft", "nft"), harms: []harm{
			{"iptables-nft -F FORWARD", fmt.Sprintf(nftables, "filter")}, {"iptables-nft -D FORWARD 1", fmt.Sprintf(nftables, "filter")},
			{"iptables-nft -F CNIB-FORWARD", fmt.Sprintf(nftables, "filter")},
			{"iptables-nft -t nat -F", fmt.Sprintf(nftables, "nat")}, {"iptables-nft -t nat -F POSTROUTING", fmt.Sprintf(nftables, "nat")},
		}},
	"`accept_ra`":    {before: "ip -6 route add default via fe80::1 dev eth0 proto ra", harms: slices.Concat(sets("2", conf6+"DEV/accept_ra"), sets("1", conf6+"eth0/accept_ra"))},
	"`disable_ipv6`": {harms: sets("1", conf6+"DEV/disable_ipv6", conf6+"cni0/disable_ipv6")},
	"`arp_ignore`":   {harms: sets("8", conf4+"all/arp_ignore", conf4+"cni0/arp_ignore")},
	"`accept_local` and `route_localnet` of the tunnel":     {harms: sets("1", conf4+"DEV/accept_local", conf4+"DEV/route_localnet")},
	"`bridge-nf-call-iptables`, `bridge-nf-call-ip6tables`": {harms: sets("0", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")},
	"legacy iptables: jumps, chains, rules, the FORWARD policy": {needs: []nstest.Feature{nstest.IPTables}, before: fmt.Sprintf(drops, "iptables-legacy", "legacy"), harms: []harm{
		{"iptables-legacy -F FORWARD", fmt.Sprintf(legacy, "filter")}, {"iptables-legacy -F CNIB-FORWARD", fmt.Sprintf(legacy, "filter")},
		{"iptables-legacy -F && iptables-legacy -X", fmt.Sprintf(legacy, "filter")},
	}},
	"legacy iptables: table `nat`, with `ip-masq-backend` `iptables` where `iptables-restore` writes the legacy tables": {
		backend: "iptables", needs: []nstest.Feature{nstest.IPTables}, legacy: true, harms: []harm{
			{"iptables-legacy -t nat -F POSTROUTING", fmt.Sprintf(legacy, "nat")}, {"iptables-legacy -t nat -F", fmt.Sprintf(legacy, "nat")},
			{"iptables-legacy -t nat -F && iptables-legacy -t nat -X", fmt.Sprintf(legacy, "nat")},
		}},
	"WireGuard: key, port, peers": {needs: []nstest.Feature{nstest.WireGuard}, prove: proveWireGuard},
	"queueing disciplines":        {prove: leftAlone("tc qdisc replace dev DEV root pfifo limit 900 && tc qdisc replace dev eth0 root pfifo limit 900", "tc qdisc show")},
	"`rp_filter`, `proxy_arp`, `accept_local`, `route_localnet` of other links": {prove: leftAlone(
		"for l in cni0 eth0; do for k in rp_filter proxy_arp accept_local route_localnet; do echo 1 > /proc/sys/net/ipv4/conf/$l/$k; done; done",
		"cd /proc/sys/net/ipv4/conf && cat {cni0,eth0}/{rp_filter,proxy_arp,accept_local,route_localnet}")},
	"rules, tables and chains of others": {prove: leftAlone("ip rule add pref 99 to 203.0.113.0/24 lookup 99; nft add table inet theirs; nft add chain inet theirs c '{ type filter hook forward priority 0; policy accept; }'",
		"ip rule; nft list table inet theirs")},
}

// documented reads the table of docs/agent.md: what, and who tells.
func documented(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/agent.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(b), "| what it relies on | who tells | mended |\n|---|---|---|\n")
	require.True(t, ok, "the table is not there")
	all := map[string]string{}
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 {
			break
		}
		all[strings.TrimSpace(cells[0])] = strings.TrimSpace(cells[1])
	}
	return all
}

func TestEachLineOfWhatTheAgentReliesOnIsProved(t *testing.T) {
	t.Parallel()
	lines := documented(t)
	for what := range proofs {
		require.Contains(t, lines, what, "proved, and not in docs/agent.md")
	}
	for what, who := range lines {
		t.Run(strings.NewReplacer("`", "", " ", "_", "/", "_").Replace(what), func(t *testing.T) {
			t.Parallel()
			p, ok := proofs[what]
			require.True(t, ok, "line %q of docs/agent.md has no proof", what)
			require.Contains(t, []string{"the kernel", "nobody", "left alone"}, who)
			nstest.Need(t, p.needs...)
			if p.legacy && os.Getenv(legacyPrograms) == "" {
				withLegacyPrograms(t)
				return
			}
			if p.prove != nil {
				p.prove(t)
				return
			}
			require.NotEqual(t, "left alone", who)
			nstest.Need(t, nstest.VXLAN)
			p.run(t, who)
		})
	}
}

const legacyPrograms = "CNIBLOCKS_TEST_LEGACY_PROGRAMS"

// withLegacyPrograms runs the test in a process whose PATH has the programs of the legacy tables under the plain names.
func withLegacyPrograms(t *testing.T) {
	dir := t.TempDir()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			program, err := exec.LookPath(family + "-legacy" + what)
			require.NoError(t, err)
			require.NoError(t, os.Symlink(program, filepath.Join(dir, family+what)))
		}
	}
	parts := strings.Split(t.Name(), "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run="+strings.Join(parts, "/"))
	cmd.Env = append(os.Environ(), legacyPrograms+"=1", "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "until mended")
}

// run has the agent of a node mend each harm. What the kernel tells must be mended without any look by the clock; the rest
// by the look that is far more often than the one at everything.
func (p proof) run(t *testing.T, who string) {
	w := newWorld(t, 2)
	w.peers(w.machines...)
	m := w.machines[0]
	m.attach(m.pods...)
	in(t, m.ns, "ip link set cni0 group 117")
	if p.before != "" {
		in(t, m.ns, p.before)
	}
	a := m.byFile("vxlan")
	if p.l2 {
		layout := agent.Layout{Tunnels: []agent.Tunnel{{Config: overlay.Config{Encap: "vxlan", L2: true}, Bridge: "br0"}}}
		a.Layout = func(context.Context) (agent.Layout, error) { return layout, nil }
	}
	a.Resync, a.SNAT.Backend = time.Hour, p.backend
	if who == "the kernel" {
		a.Look = time.Hour
	}
	m.run()
	m.ready()
	dev := m.device()
	for _, h := range p.harms {
		do, look := strings.ReplaceAll(h.do, "DEV", dev), strings.ReplaceAll(h.look, "DEV", dev)
		see := watcher(t, m.ns, look)
		want := see()
		times := m.Status().Withdrawn.Times
		in(t, m.ns, do)
		begin := time.Now()
		for see() != want || !m.Status().Ready {
			if time.Since(begin) > soon {
				require.Equal(t, want, see(), "after %s: %+v", do, m.Status())
				require.True(t, m.Status().Ready, "after %s: %+v", do, m.Status())
			}
			time.Sleep(100 * time.Microsecond)
		}
		s := m.Status()
		t.Logf("%7s until mended: %s; readiness was withdrawn: %s", time.Since(begin).Round(100*time.Microsecond), do, s.Withdrawn.Last)
		require.Greater(t, s.Withdrawn.Times, times, "readiness was not withdrawn after %s", do)
		require.NotEmpty(t, s.Withdrawn.Last)
		require.NotRegexp(t, `#\d`, s.Withdrawn.Last+s.Repairs.Last, "a link has a name")
		time.Sleep(time.Millisecond)
	}
}

// device is the first one of the agent's first tunnel, as soon as its status tells it.
func (m *machine) device() (dev string) {
	m.w.t.Helper()
	until(m.w.t, "the device is told", func() bool {
		for _, tunnel := range m.Status().Tunnels {
			for _, dev = range tunnel.Devices {
				return true
			}
		}
		return false
	})
	return dev
}

// Nothing else runs meanwhile: tests that are parallel wait for this one.
func TestAnIdleAgentNeedsNextToNoProcessorTime(t *testing.T) {
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 2)
	w.peers(w.machines...)
	m := w.machines[0]
	m.attach(m.pods...)
	in(t, m.ns, "iptables-legacy -P FORWARD DROP; for i in $(seq 50); do ip link add v$i type veth peer name w$i; done")
	m.byFile("vxlan").Look = heartbeat / 10
	m.run()
	m.ready()
	time.Sleep(time.Second)
	var before, after unix.Rusage
	begin := time.Now()
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &before))
	time.Sleep(2 * heartbeat)
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &after))
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	share := used.Seconds() / time.Since(begin).Seconds()
	t.Logf("%.2f %% of a processor with ten times as many looks as usual, 100 interfaces and a legacy table", 100*share)
	require.Less(t, share, 0.1)
}

// watcher reads a parameter, or what a command prints.
func watcher(t *testing.T, ns *netns.NS, look string) func() string {
	if key, ok := strings.CutPrefix(look, "/proc/sys/"); ok {
		return func() string {
			v, _ := sysctl.Get(ns, key) // the device may be gone for a moment
			return v
		}
	}
	return func() string {
		var out []byte
		require.NoError(t, ns.Do(func() error {
			out, _ = exec.Command("bash", "-c", look).Output() // it fails while something is missing
			return nil
		}))
		return string(out)
	}
}

// proveWireGuard has another program take the peers, and change the key and the port.
func proveWireGuard(t *testing.T) {
	w := newWorld(t, 2)
	w.peers(w.machines...)
	for _, m := range w.machines {
		m.byFile("wireguard").Resync = time.Hour
	}
	w.keyed()
	m := w.machines[0]
	m.run()
	until(t, "ready", func() bool { return m.Status().Ready })
	nstest.Settle(t, m.ns) // what the kernel announces late has the agent look, and mend a harm before it is known
	dev := m.device()
	var c *wgctrl.Client
	require.NoError(t, m.ns.Do(func() (err error) {
		c, err = wgctrl.New()
		return err
	}))
	defer c.Close()
	see := func() string {
		d, err := c.Device(dev)
		require.NoError(t, err)
		said := fmt.Sprint(d.PrivateKey, d.ListenPort)
		for _, p := range d.Peers {
			said += fmt.Sprint(" ", p.PublicKey, p.AllowedIPs)
		}
		return said
	}
	want := see()
	other, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	port := 51999
	for what, harm := range map[string]wgtypes.Config{
		"no peers": {ReplacePeers: true}, "another key": {PrivateKey: &other}, "another port": {ListenPort: &port},
	} {
		times := m.Status().Withdrawn.Times
		require.NoError(t, c.ConfigureDevice(dev, harm))
		require.NotEqual(t, want, see())
		until(t, what, func() bool { return see() == want && m.Status().Ready })
		require.Greater(t, m.Status().Withdrawn.Times, times)
	}
}

// leftAlone proves that pods reach each other with and without a thing, and that the agent does not touch it.
func leftAlone(do, look string) func(t *testing.T) {
	return func(t *testing.T) {
		nstest.Need(t, nstest.VXLAN)
		w := newWorld(t, 2)
		w.peers(w.machines...)
		for _, m := range w.machines {
			m.byFile("vxlan").Resync = 200 * time.Millisecond
			m.run()
			m.attach(m.pods...)
			m.ready()
		}
		w.reachAll()
		m := w.machines[0]
		dev := m.device()
		in(t, m.ns, strings.ReplaceAll(do, "DEV", dev))
		see := watcher(t, m.ns, strings.ReplaceAll(look, "DEV", dev))
		want, looks := see(), m.Status().Repairs.Resync
		until(t, "three looks at everything", func() bool { return m.Status().Repairs.Resync > looks+3 })
		require.Equal(t, want, see())
		require.True(t, m.Status().Ready, "%v", m.Status().Reasons)
		w.reachAll()
	}
}

func TestPingsBetweenPodsSurviveThatForwardingIsSwitchedOff(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 2)
	w.peers(w.machines...)
	for _, m := range w.machines {
		m.byFile("vxlan").Resync = time.Hour
		m.run()
		m.attach(m.pods...)
		m.ready()
	}
	w.reachAll()
	a, b := w.machines[0], w.machines[1]
	to := b.podAddrs(b.pods...)[0]
	var lost, sent int
	for i := range 200 {
		if i%40 == 20 {
			in(t, a.ns, "sysctl -qw net.ipv4.ip_forward=0")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if err := nstest.Ping(ctx, a.pod, to, ping.Options{}); err != nil {
			lost++
		}
		cancel()
		sent++
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d of %d pings lost while forwarding was switched off 5 times", lost, sent)
	require.Less(t, lost, sent/10)
}

func TestReadyzSaysWhatIsNotAsPodsNeedItUntilItIs(t *testing.T) {
	t.Parallel()
	m, _, _ := steady(t, 2)
	unlock, err := m.ns.Lock(t.Context()) // whoever writes forwarding waits for it
	require.NoError(t, err)
	l, err := agent.Listen("unix:" + filepath.Join(m.dir, "agent.sock"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- m.Serve(ctx, l) }()
	defer func() {
		cancel()
		require.NoError(t, <-served)
	}()
	in(t, m.ns, "sysctl -qw net.ipv4.ip_forward=0")
	until(t, "readiness is withdrawn", func() bool {
		code, text := get(t, filepath.Join(m.dir, "agent.sock"), "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "net/ipv4/ip_forward is 0")
	})
	unlock()
	m.ready()
	require.Equal(t, "1", watcher(t, m.ns, "/proc/sys/net/ipv4/ip_forward")())
}

func TestTheAgentDoesNotFightWithAnotherWriter(t *testing.T) {
	t.Parallel()
	m, _, _ := steady(t, 2)
	said := regexp.MustCompile(`another program changes sysctl net/ipv4/ip_forward again and again \(the agent put it back (\d+) times\): find and end that program`)
	begin, flips := time.Now(), 0
	var last string
	for last == "" || time.Since(begin) < 3*time.Second {
		if v, _ := sysctl.Get(m.ns, "net/ipv4/ip_forward"); v == "1" {
			require.NoError(t, sysctl.Ensure(m.ns, sysctl.Var{Key: "net/ipv4/ip_forward", Value: "0"}))
			flips++
		}
		s := m.Status()
		if f := said.FindString(strings.Join(s.Reasons, "\n")); f != "" {
			require.False(t, s.Ready)
			last = f
		}
		require.Less(t, time.Since(begin), soon)
		time.Sleep(200 * time.Microsecond)
	}
	t.Logf("%d times within %s: %s", flips, time.Since(begin).Round(time.Millisecond), last)
	require.Less(t, flips, 5+2*int(1+time.Since(begin).Seconds()), "it waits longer and longer")
	until(t, "peace", func() bool {
		v, _ := sysctl.Get(m.ns, "net/ipv4/ip_forward")
		return v == "1" && m.Status().Ready
	})
}
