//go:build linux

package agent_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// in runs a command line in the namespace.
func in(t testing.TB, ns *netns.NS, line string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.NoError(t, ns.Do(func() error {
		cmd := exec.Command("sh", "-c", line)
		cmd.Stdout, cmd.Stderr = &out, &errs
		return cmd.Run()
	}), "%s: %s%s", line, &out, &errs)
	return out.String()
}

// state is what the agent keeps in the kernel, without the numbers that are new with a device. What the programs complain
// of is no part of it: ip does so of a namespace that ends while it looks.
func (m *machine) state() string {
	var b strings.Builder
	for _, line := range []string{
		"ip -o -d link show | grep cniblocks | sed 's/^[0-9]*: //; s/ promiscuity.*//; s/ state [A-Z]*//; s/ qdisc [a-z]*//' | sort",
		"ip -o addr show | grep -E 'cb-|flannel' | sed 's/^[0-9]*: //' | sort", "ip route show proto 117 | sort", "ip -6 route show proto 117 | sort",
		"ip neigh show nud permanent | grep -E 'cb-|flannel' | sort", "bridge fdb show | grep -E 'dev (cb-|flannel)' | sort",
		"nft list table inet cniblocks 2>/dev/null | sort", "cat /proc/sys/net/ipv4/ip_forward",
	} {
		_ = m.ns.Do(func() error { // grep finds nothing while something is missing
			cmd := exec.Command("sh", "-c", line)
			cmd.Stdout = &b
			return cmd.Run()
		})
	}
	return b.String()
}

// harms are what another program may do to a node; DEV is its device.
var harms = []string{
	"ip route del 10.244.2.0/24", "ip -6 route del fd00:10:244:2::/64", "ip route flush proto 117",
	"ip route replace 10.244.2.0/24 via 10.244.3.0 dev DEV onlink proto 117 metric $(ip route show 10.244.2.0/24 | grep -o 'metric [0-9]*' | cut -d' ' -f2)",
	"ip neigh del 10.244.2.0 dev DEV", "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:01 dev DEV", "ip neigh flush dev DEV nud permanent",
	"bridge fdb del $(bridge fdb show dev DEV | head -1 | cut -d' ' -f1) dev DEV dst 192.0.2.12",
	"bridge fdb replace $(bridge fdb show dev DEV | grep 192.0.2.12 | head -1 | cut -d' ' -f1) dev DEV dst 192.0.2.77 extern_learn",
	"ip addr flush dev DEV", "ip link set DEV down", "ip link set DEV mtu 1300", "ip link del DEV",
	"nft flush ruleset", "nft delete table inet cniblocks", "nft flush chain inet cniblocks postrouting",
}

// steady is a node among n that is as it wants to be, and does not look at everything by the clock; its state, and its
// tunnel device.
func steady(t *testing.T, n int) (m *machine, want, dev string) {
	t.Helper()
	w := newWorld(t, n)
	w.peers(w.machines...)
	m = w.machines[0]
	m.byFile("vxlan").Resync = time.Hour
	m.run()
	m.ready()
	return m, m.state(), m.Status().Tunnels[0].Devices[0]
}

func TestWhatAnotherProgramChangesIsMendedAtOnce(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN, nstest.NFT)
	m, want, dev := steady(t, 3)
	all := ""
	for _, h := range harms {
		h = strings.ReplaceAll(h, "DEV", dev)
		all += h + " 2>/dev/null; "
		in(t, m.ns, h)
		m.mended(want, h)
	}
	in(t, m.ns, all+"true")
	m.mended(want, "all at once")
	require.Positive(t, m.Status().Repairs.Event)
	require.Zero(t, m.Status().Repairs.Lost)
}

// mended waits until the kernel is as it was.
func (m *machine) mended(want, after string) {
	m.w.t.Helper()
	begin := time.Now()
	for !m.Status().Ready || m.state() != want {
		if time.Since(begin) > soon {
			require.Equal(m.w.t, want, m.state(), "after %s; status: %+v", after, m.Status())
			require.True(m.w.t, m.Status().Ready, "after %s; status: %+v", after, m.Status())
		}
		time.Sleep(time.Millisecond)
	}
	m.w.t.Logf("mended within %s (of which a look takes some 30 ms): %s", time.Since(begin).Round(time.Millisecond), after)
}

func TestLostAnnouncementsMakeTheAgentLookAtEverything(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 3)
	w.peers(w.machines...)
	m := w.machines[0]
	a := m.byFile("vxlan")
	a.Resync, a.Buffer = time.Hour, 1
	m.run()
	m.ready()
	want := m.state()
	// Twenty thousand routes in one batch are announced faster than anybody reads.
	var batch strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&batch, "route add 10.%d.%d.%d/32 dev lo\n", 1+i/65536, i/256%256, i%256)
	}
	batch.WriteString("route flush proto 117\n")
	require.NoError(t, m.ns.Do(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.String())
		return cmd.Run()
	}))
	m.mended(want, "a flood")
	require.Positive(t, m.Status().Repairs.Lost)
}

// quiet returns what is announced of links, addresses, routes, neighbours and nftables from now on.
func quiet(t *testing.T, ns *netns.NS) func() []string {
	t.Helper()
	var cmds []*exec.Cmd
	for _, line := range [][]string{{"ip", "monitor", "link", "address", "route", "rule", "neigh"}, {"bridge", "monitor", "fdb"}, {"nft", "monitor"}} {
		require.NoError(t, ns.Do(func() error {
			cmd := exec.Command(line[0], line[1:]...)
			cmd.Stdout = &bytes.Buffer{}
			cmds = append(cmds, cmd)
			return cmd.Start()
		}))
	}
	time.Sleep(300 * time.Millisecond) // until they listen
	return func() (all []string) {
		time.Sleep(300 * time.Millisecond)
		for _, cmd := range cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			for l := range strings.Lines(cmd.Stdout.(*bytes.Buffer).String()) {
				if !noise.MatchString(l) {
					all = append(all, l)
				}
			}
		}
		return all
	}
}

// noise is what the kernel does by itself.
var noise = regexp.MustCompile(` dev (eth0|cni0) lladdr|PROBE|STALE|DELAY|REACHABLE|FAILED|^# new generation`)

func TestARestartWritesNothingToTheKernel(t *testing.T) {
	t.Parallel()
	for _, encap := range []string{"vxlan", "host-gw"} {
		t.Run(encap, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.VXLAN, nstest.NFT)
			w := newWorld(t, 3)
			w.peers(w.machines...)
			m := w.machines[0]
			m.byFile(encap)
			m.run()
			m.ready()
			before := m.state()
			m.stop()
			require.Equal(t, before, m.state(), "the end of the agent changes nothing")
			said := quiet(t, m.ns)
			m.byFile(encap)
			m.run()
			m.ready()
			require.Empty(t, said())
			require.Equal(t, before, m.state())
		})
	}
}

func TestANodeThatCannotBeMadeRightIsNotReadyAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	m, want, dev := steady(t, 2)
	in(t, m.ns, "ip link set "+dev+" alias theirs")
	until(t, "what to do", func() bool {
		s := m.Status()
		return !s.Ready && strings.Contains(strings.Join(s.Reasons, "\n"), "device "+dev+" (kind vxlan) is not ours")
	})
	in(t, m.ns, "ip link set "+dev+" alias cniblocks/pods")
	m.mended(want, "the way back")
}

func TestAForeignRouteInTheWayIsToldAndLeftAloneAndOursComesWhenItGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("host-gw").Resync = time.Hour
	in(t, m.ns, "ip route add 10.244.2.0/24 dev eth0")
	m.run()
	m.ready()
	require.Contains(t, strings.Join(m.Status().Refused, "\n"), `peer "b"`)
	require.Contains(t, in(t, m.ns, "ip route show 10.244.2.0/24"), "dev eth0 scope link")
	in(t, m.ns, "ip route del 10.244.2.0/24 dev eth0")
	require.Eventually(t, func() bool { return len(m.Status().Refused) == 0 }, soon, time.Millisecond)
	require.Contains(t, in(t, m.ns, "ip route show 10.244.2.0/24"), "via 192.0.2.12")
}
