//go:build linux

package nstest_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

// leakEnv names what a copy of this test binary is to leak.
const leakEnv = "CNIBLOCKS_TEST_LEAK"

func TestMain(m *testing.M) { nstest.Main(m) }

func TestLinkedNamespacesTalkOverBothFamiliesAtOnce(t *testing.T) {
	t.Parallel()
	a, b := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: a, Name: "eth0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}, MTU: 1400},
		nstest.End{NS: b, Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}, MTU: 1400})
	for _, s := range []string{"192.0.2.2", "2001:db8::2"} {
		to := netip.MustParseAddr(s)
		require.NoError(t, nstest.Ping(t.Context(), a, to, ping.Options{}))
		at := nstest.Serve(t, b, netip.AddrPortFrom(to, 0))
		require.NoError(t, nstest.Stream(t.Context(), a, at, 3<<20))
	}
	l, err := nstest.Netlink(t, b).LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, 1400, l.Attrs().MTU)
}

func TestDialSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	a := nstest.New(t)
	_, err := nstest.Dial(t.Context(), a, netip.MustParseAddrPort("127.0.0.1:9"))
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b := nstest.New(t)
	nstest.Link(t, nstest.End{NS: a, Name: "eth0", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: b, Name: "eth0"})
	_, err = nstest.Dial(ctx, a, netip.MustParseAddrPort("192.0.2.77:9"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAListenerSeesWhoDialled(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	l := nstest.Listen(t, ns, netip.MustParseAddrPort("[::1]:0"))
	c, err := nstest.Dial(t.Context(), ns, netip.MustParseAddrPort(l.Addr().String()))
	require.NoError(t, err)
	defer c.Close()
	s, err := l.Accept()
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
	_, err = io.WriteString(c, "x")
	require.NoError(t, err)
}

func TestANamedNamespaceIsPinnedUntilTheTestEnds(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("during", func(t *testing.T) {
		var ns *netns.NS
		name, ns = nstest.Named(t)
		require.True(t, strings.HasPrefix(name, nstest.Prefix))
		again, err := netns.Open(netns.Dir + "/" + name)
		require.NoError(t, err)
		defer again.Close()
		require.True(t, ns.Same(again))
	})
	_, err := netns.Open(netns.Dir + "/" + name)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestADumpShowsEveryKindOfObjectAndIsTheSameAfterItIsGone(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	h := nstest.Netlink(t, ns)
	before := nstest.Dump(ns)
	require.Equal(t, before, nstest.Dump(ns))

	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	require.NoError(t, h.LinkAdd(br))
	require.NoError(t, h.LinkSetAlias(br, "an alias"))
	vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0", MasterIndex: br.Index}, VxlanId: 4711, Port: 4789}
	require.NoError(t, h.LinkAdd(vx))
	require.NoError(t, h.LinkSetUp(br))
	nstest.AddAddrs(t, ns, "br0", "192.0.2.1/24", "2001:db8::1/64")
	nstest.AddRoute(t, ns, "198.51.100.0/24", "192.0.2.9")
	require.NoError(t, h.NeighAdd(&netlink.Neigh{LinkIndex: br.Index, State: netlink.NUD_PERMANENT,
		IP: netip.MustParseAddr("192.0.2.8").AsSlice(), HardwareAddr: []byte{2, 0, 0, 0, 0, 8}}))
	require.NoError(t, h.NeighAdd(&netlink.Neigh{LinkIndex: vx.Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT,
		Flags: netlink.NTF_SELF, IP: netip.MustParseAddr("203.0.113.7").AsSlice(), HardwareAddr: []byte{2, 0, 0, 0, 0, 7}}))
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Priority = unix.AF_INET, 4712, 4713
	require.NoError(t, h.RuleAdd(rule))
	nft(t, ns, "add table inet atable", "add chain inet atable achain", "add rule inet atable achain counter accept")

	with := nstest.Dump(ns)
	for _, want := range []string{
		`br0 bridge mtu 1500`, `alias "an alias"`, `VxlanId=4711`, `master br0 port [`, `br0 192.0.2.1/24`, `2001:db8::1/64`,
		`198.51.100.0/24 dev br0 via 192.0.2.9`, `192.0.2.8 dev br0 lladdr 02:00:00:00:00:08`,
		`02:00:00:00:00:07 dev vx0 master  dst 203.0.113.7`, `4713`, `table 4712`, `chain achain`,
	} {
		require.Contains(t, with, want)
	}
	require.NotContains(t, with, "error:")

	nft(t, ns, "delete table inet atable")
	require.NoError(t, h.RuleDel(rule))
	require.NoError(t, h.LinkDel(vx))
	require.NoError(t, h.LinkDel(br))
	require.Equal(t, before, nstest.Dump(ns))
}

func nft(t *testing.T, ns *netns.NS, commands ...string) {
	t.Helper()
	nstest.Need(t, nstest.NFT)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("lane: needs the program nft")
	}
	require.NoError(t, ns.Do(func() error { return exec.Command("nft", strings.Join(commands, ";")).Run() }))
}

func TestAFeatureThatNoKernelHasSkipsWithTheWordsThatTheLanesRead(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	require.False(t, nstest.Has("no-such-kind"))
	require.True(t, nstest.Has("veth"))
	var probe recorder
	done := make(chan struct{})
	go func() { // Skip ends the goroutine
		defer close(done)
		probe.TB = t
		nstest.Need(&probe, "veth", "no-such-kind")
	}()
	<-done
	require.Equal(t, "lane: needs no-such-kind, runs in the vm lane", probe.reason)
}

// TestLeak is what the test below runs in a copy of this binary.
func TestLeak(t *testing.T) {
	leak, ok := leaks[os.Getenv(leakEnv)]
	if !ok {
		require.NotEmpty(t, leaks)
		return
	}
	require.NoError(t, leak())
}

var leaks = map[string]func() error{
	"descriptor": func() error { _, err := unix.Open("/proc/self/status", unix.O_RDONLY, 0); return err },
	"goroutine":  func() error { go func() { select {} }(); return nil },
	"thread": func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		in := make(chan error)
		go func() { _ = ns.Do(func() error { in <- nil; select {} }) }()
		return <-in
	},
	"child process": func() error { return exec.Command("sleep", "10").Start() },
	"namespace":     func() error { _, err := nstest.Leak(); return err },
	"nothing":       func() error { return nil },
}

func TestMainFailsTheRunThatLeaked(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	for kind := range leaks {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestLeak$")
			cmd.Env = append(os.Environ(), leakEnv+"="+kind)
			out, err := cmd.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "nstest: leaked: namespace "); ok {
					require.NoError(t, netns.Remove(name))
				}
			}
			if kind == "nothing" {
				require.NoError(t, err, string(out))
				return
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(out))
			require.Contains(t, string(out), "leaked: "+map[string]string{"goroutine": "1 goroutines"}[kind])
			require.Contains(t, string(out), kind)
		})
	}
}

type recorder struct {
	testing.TB
	reason string
}

func (r *recorder) Skipf(format string, args ...any) {
	r.reason = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (r *recorder) Logf(string, ...any) {}
