//go:build linux

package overlay_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

func TestPeersOfEitherUnderlayFamilyAreReachedAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		encap overlay.Encap
		need  []nstest.Feature
	}{
		{overlay.GRE{}, []nstest.Feature{nstest.GRE, nstest.IP6GRE}},
		{overlay.IPIP{}, []nstest.Feature{nstest.IPIP, nstest.SIT, nstest.IP6Tnl}},
		{overlay.Geneve{}, []nstest.Feature{nstest.Geneve}},
		{overlay.WireGuard{}, []nstest.Feature{nstest.WireGuard}},
	} {
		t.Run(s.encap.Name(), func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			c := newCluster(t, 3)
			c.keys(s.encap)
			a, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
			b.V6.Addr, d.V4.Addr = netip.Addr{}, netip.Addr{}
			for _, n := range []*node{b, d} { // they have nothing in common with each other
				n.open(t, s.encap)
				require.NoError(t, n.net.Set(t.Context(), []peer.Peer{n.Peer, a.Peer}))
			}
			a.open(t, s.encap)
			require.NoError(t, a.net.Set(t.Context(), c.peers()))
			require.NoError(t, a.net.Check(t.Context()))
			require.Equal(t, a.net.MTU(d.Peer), a.net.MTU(peer.Peer{}), "pods get the smaller one")
			require.Equal(t, a.net.MTU(d.Peer)+20, a.net.MTU(b.Peer))
			c.addPods()
			for _, to := range []*node{b, d} {
				c.pings(a.pods[0].ns, to.pods[0], to.Name, nil)
				c.pings(to.pods[0].ns, a.pods[0], to.Name, nil)
			}
			err := b.net.Set(t.Context(), c.peers())
			require.ErrorContains(t, err, `peer "c": no family is common to its endpoint (2001:db8::13) and this node's (192.0.2.12)`)
		})
	}
}

func TestDirectRoutingTakesTheTunnelToPeersBehindARouter(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	for _, e := range []overlay.VXLAN{{DirectRouting: true}, {DirectRouting: true, GPE: true}} {
		c := newCluster(t, 3)
		n, far := c.nodes[0], c.nodes[2]
		far.V4.Addr, far.V6.Addr = netip.MustParseAddr("198.51.100.13"), netip.Addr{}
		ip(t, n.ns, "route add 198.51.100.0/24 via 192.0.2.254")
		n.open(t, e)
		require.NoError(t, n.net.Set(t.Context(), c.peers()))
		require.NoError(t, n.net.Check(t.Context()))
		self, err := n.net.Ensure(t.Context())
		require.NoError(t, err)
		require.Contains(t, routes(t, n.ns), "10.244.2.0/24 via 192.0.2.12 dev eth0")
		require.Contains(t, routes(t, n.ns), "fd00:10:244:2::/64 via 2001:db8::12 dev eth0")
		require.Contains(t, ip(t, n.ns, "route show 10.244.3.0/24"), "dev "+self.Devices[0])
		ip(t, n.ns, "route del 198.51.100.0/24 via 192.0.2.254")
		ip(t, n.ns, "route add 198.51.100.0/24 dev eth0")
		require.NoError(t, n.net.Repair(t.Context()), "it came near")
		require.Contains(t, routes(t, n.ns), "10.244.3.0/24 via 198.51.100.13 dev eth0")
	}
}

func TestTwoUnderlaysOfOneNetworkHaveADeviceEach(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	n := c.nodes[0]
	before := c.dumps()
	var both []*overlay.Node
	for f, name := range map[inet.Family]string{inet.IPv4: "flannel.1", inet.IPv6: "flannel-v6.1"} {
		o := n.options()
		o.Device, o.Underlay, o.Families = name, f, []inet.Family{f}
		half, err := overlay.New(o, overlay.VXLAN{VNI: 1, Port: overlay.PortFlannel})
		require.NoError(t, err)
		require.NoError(t, half.Set(t.Context(), c.peers()))
		both = append(both, half)
	}
	for _, half := range both {
		require.NoError(t, half.Repair(t.Context()))
		require.NoError(t, half.Check(t.Context()))
	}
	require.Contains(t, routes(t, n.ns), "10.244.2.0/24 via 10.244.2.0 dev flannel.1")
	require.Contains(t, routes(t, n.ns), "fd00:10:244:2::/64 via fd00:10:244:2:ffff:ffff:ffff:ffff dev flannel-v6.1")
	require.NoError(t, both[0].Close(t.Context()))
	require.NoError(t, both[1].Check(t.Context()))
	require.NoError(t, both[1].Close(t.Context()))
	same(t, before, c.dumps(), "after both closed")
}

func TestOtherPeersTrafficGoesOnWhileAPeerComesAndGoes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		c.addPods()
		c.reach(inet.IPv4)
		ctx, stop := context.WithCancel(t.Context())
		var gap time.Duration
		var lost, answered atomic.Int32
		var wg sync.WaitGroup
		wg.Go(func() {
			for last := time.Now(); ctx.Err() == nil; {
				if nstest.Ping(t.Context(), c.nodes[0].pods[0].ns, c.nodes[1].pods[0].v4, ping.Options{Timeout: time.Second}) != nil {
					lost.Add(1)
				}
				answered.Add(1)
				now := time.Now()
				gap, last = max(gap, now.Sub(last)), now
			}
		})
		for i := 0; i < 10 || answered.Load() < 20; i++ {
			peers := c.peers()
			if i%2 == 0 {
				peers = peers[:2]
			}
			for _, n := range c.nodes[:2] {
				if i%4 == 3 { // by dump and compare, too
					n.open(t, e)
				}
				require.NoError(t, n.net.Set(t.Context(), peers))
			}
		}
		stop()
		wg.Wait()
		require.Zero(t, lost.Load(), "a request was lost")
		t.Logf("longest round trip: %s", gap)
	})
}

func TestProcessesThatApplyAtOnceDoTheWorkOnce(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	n := c.nodes[0]
	var loads atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			own, err := overlay.New(n.options(), overlay.VXLAN{})
			if err == nil {
				_, err = own.Apply(t.Context(), "1", func() ([]peer.Peer, error) { loads.Add(1); return c.peers(), nil })
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, loads.Load())
}

const (
	killedNS    = "CNIBLOCKS_TEST_OVERLAY_NS"
	killedState = "CNIBLOCKS_TEST_OVERLAY_STATE"
)

// childToBeKilled applies many peers and says when it begins and ends.
func childToBeKilled() error {
	ns, err := netns.Open(os.Getenv(killedNS))
	if err != nil {
		return err
	}
	defer ns.Close()
	n, err := overlay.New(overlay.Options{NS: ns, Network: "bench", Node: benchSelf, StateDir: os.Getenv(killedState)}, overlay.VXLAN{})
	if err != nil {
		return err
	}
	fmt.Println("now")
	if _, err = n.Apply(context.Background(), "1", func() ([]peer.Peer, error) { return many(2000), nil }); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

func TestAKillAtAnyMomentLeavesWhatTheNextSetMends(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	ns, wire := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"172.16.255.254/16"}}, nstest.End{NS: wire, Name: "eth0"})
	dir := t.TempDir()
	open := func() *overlay.Node {
		n, err := overlay.New(overlay.Options{NS: ns, Network: "bench", Node: benchSelf, StateDir: dir}, overlay.VXLAN{})
		require.NoError(t, err)
		return n
	}
	// run starts a Set in a child and kills it after a while, if it is not faster; it returns how long the Set took.
	run := func(after time.Duration) time.Duration {
		require.NoError(t, open().Close(t.Context()))
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=/proc/%d/fd/%d", killedNS, os.Getpid(), ns.Fd()), killedState+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		_, err = lines.ReadString('\n')
		start := time.Now()
		kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_, _ = lines.ReadString('\n')
		took := time.Since(start)
		_ = cmd.Wait()
		require.NoError(t, err)
		return took
	}
	whole := run(time.Minute)
	const rounds = 12
	killed := 0
	for i := range rounds {
		after := whole * time.Duration(i) / rounds
		run(after)
		if !open().Fresh("1") {
			killed++
		}
		n := open()
		_, err := n.Apply(t.Context(), "1", func() ([]peer.Peer, error) { return many(2000), nil })
		require.NoError(t, err)
		n.Want(many(2000))
		require.NoError(t, n.Check(t.Context()), "killed after %s of %s", after, whole)
	}
	require.NotZero(t, killed, "every child was faster than its killer")
	t.Logf("%d of %d children died before the end", killed, rounds)
}
