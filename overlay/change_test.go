//go:build linux

package overlay_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// each runs a test for every encapsulation that has a state of its own kind.
func each(t *testing.T, f func(t *testing.T, e overlay.Encap)) {
	for _, s := range []struct {
		name  string
		encap overlay.Encap
		need  []nstest.Feature
	}{
		{"vxlan", overlay.VXLAN{}, []nstest.Feature{nstest.VXLAN}},
		{"vxlan-gpe", overlay.VXLAN{GPE: true}, []nstest.Feature{nstest.VXLAN}},
		{"gre", overlay.GRE{}, []nstest.Feature{nstest.GRE}},
		{"gre point-to-point", overlay.GRE{PointToPoint: true}, []nstest.Feature{nstest.GRE}},
		{"ipip", overlay.IPIP{}, []nstest.Feature{nstest.IPIP, nstest.SIT, nstest.IP6Tnl}},
		{"geneve", overlay.Geneve{}, []nstest.Feature{nstest.Geneve}},
		{"wireguard", overlay.WireGuard{}, []nstest.Feature{nstest.WireGuard}},
		{"host-gw", overlay.Direct{}, nil},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			f(t, s.encap)
		})
	}
}

// set applies the cluster's list on every node.
func (c *cluster) set(peers []peer.Peer) {
	c.t.Helper()
	for _, n := range c.nodes {
		require.NoError(c.t, n.net.Set(c.t.Context(), peers), n.Name)
		require.NoError(c.t, n.net.Check(c.t.Context()), n.Name)
	}
}

// fresh is what a new process on the node would make of the list: the state that any way there must lead to.
func (c *cluster) fresh(e overlay.Encap, peers []peer.Peer) []string {
	c.t.Helper()
	for _, n := range c.nodes {
		require.NoError(c.t, n.net.Close(c.t.Context()))
		n.open(c.t, e)
	}
	c.set(peers)
	return c.dumps()
}

func TestAPeerJoinsChangesAndLeavesAndNothingOfTheOldStateIsLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		c.addPods()
		empty := c.peers()[:1]
		steps := []struct {
			what string
			do   func([]peer.Peer) []peer.Peer
		}{
			{"the last leaves", func(p []peer.Peer) []peer.Peer { return p[:2] }},
			{"it joins again", func(p []peer.Peer) []peer.Peer { return c.peers() }},
			{"one gets another range", func(p []peer.Peer) []peer.Peer {
				p[1].Pods = []netip.Prefix{netip.MustParsePrefix("10.244.77.0/24"), p[1].Pods[1]}
				return p
			}},
			{"one gives its range to another", func(p []peer.Peer) []peer.Peer {
				p[1].Pods, p[2].Pods = p[1].Pods[:1], append(slices.Clone(p[2].Pods), p[1].Pods[1])
				return p
			}},
			{"two swap their ranges", func(p []peer.Peer) []peer.Peer {
				p[1].Pods, p[2].Pods = p[2].Pods, p[1].Pods
				return p
			}},
			{"the order changes", func(p []peer.Peer) []peer.Peer { slices.Reverse(p); return p }},
		}
		peers := c.peers()
		for _, s := range steps {
			peers = s.do(slices.Clone(peers))
			// The first node alone: the others would find their own ranges changed.
			n := c.nodes[0]
			require.NoError(t, n.net.Set(t.Context(), peers), s.what)
			require.NoError(t, n.net.Check(t.Context()), s.what)
			got := c.dumps()[0]
			n.open(t, e)
			n.net.Want(peers)
			require.NoError(t, n.net.Check(t.Context()), "%s: a new process finds a difference", s.what)
			require.NoError(t, n.net.Repair(t.Context()))
			require.Equal(t, got, c.dumps()[0], "%s: a new process writes", s.what)
		}
		c.set(empty)
		left := c.dumps()
		same(t, ours(c.fresh(e, empty)), ours(left), "after all peers left")
		c.set(c.peers())
		c.reach()
	})
}

func TestAPeerChangesItsEndpointAndPodsFollow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		c.addPods()
		c.reach()
		b := c.nodes[1]
		b.V4.Addr, b.V6.Addr = netip.MustParseAddr("192.0.2.112"), netip.MustParseAddr("2001:db8::112")
		ip(t, b.ns, "addr del 192.0.2.12/24 dev eth0")
		ip(t, b.ns, "addr del 2001:db8::12/64 dev eth0")
		nstest.AddAddrs(t, b.ns, "eth0", "192.0.2.112/24", "2001:db8::112/64")
		b.open(t, e)
		c.set(c.peers())
		c.reach()
	})
}

func TestTheUnderlayGoesDownAndUpAndRepairMendsWhatTheKernelDropped(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		c.addPods()
		n := c.nodes[0]
		nstest.Sysctl(t, n.ns, "net/ipv6/conf/eth0/keep_addr_on_down", "1")
		before := c.dumps()
		ip(t, n.ns, "link set eth0 down")
		_ = n.net.Repair(t.Context()) // reports what cannot be while it is down
		ip(t, n.ns, "link set eth0 up")
		require.NoError(t, n.net.Repair(t.Context()))
		same(t, ours(before), ours(c.dumps()), "after Repair")
		c.reach()
	})
}

func TestTheSameListTwiceWritesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		n := c.nodes[0]
		writes := watch(t, n.ns)
		require.NoError(t, n.net.Set(t.Context(), c.peers()))
		require.NoError(t, n.net.Repair(t.Context()))
		n.open(t, e)
		require.NoError(t, n.net.Set(t.Context(), c.peers()))
		require.Empty(t, writes(), "the kernel announced changes")
	})
}

func TestWhatIsTakenAwayByHandIsMissedByCheckAndMendedByRepair(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	c.up(overlay.VXLAN{})
	c.addPods()
	n := c.nodes[0]
	self, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	dev := self.Devices[0]
	before := c.dumps()
	for _, harm := range []struct{ do, says string }{
		{"route del 10.244.2.0/24", "route 10.244.2.0/24"},
		{"-6 route flush proto 117", "route fd00:10:244:2::/64"},
		{"neigh flush dev " + dev + " nud permanent", "neighbour 10.244.2.0"},
		{"addr del 10.244.1.0/32 dev " + dev, "address 10.244.1.0/32"},
		{"addr flush dev " + dev, "is missing"},
		{"link set " + dev + " down", "is down"},
		{"link set " + dev + " mtu 1300", "MTU 1450"},
		{"link set " + dev + " address 02:00:00:00:00:99", "MAC"},
		{"link del " + dev, "is missing"},
	} {
		ip(t, n.ns, harm.do)
		if harm.do != "link set "+dev+" address 02:00:00:00:00:99" { // an existing device's MAC is right, unless it was told to others
			require.ErrorContains(t, n.net.Check(t.Context()), harm.says, harm.do)
		}
		require.NoError(t, n.net.Repair(t.Context()), harm.do)
		require.NoError(t, n.net.Check(t.Context()), harm.do)
	}
	out, err := run(n.ns, "bridge", "fdb flush dev "+dev)
	require.NoError(t, err, out)
	require.ErrorContains(t, n.net.Check(t.Context()), "FDB entry")
	require.NoError(t, n.net.Repair(t.Context()))
	c.reach()
	after := c.dumps()
	same(t, ours(before), ours(after), "after all repairs")
}

func TestTheMACSurvivesTheLossOfTheDeviceAndAStatedOneWins(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	n := c.nodes[0]
	n.open(t, overlay.VXLAN{})
	first, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	require.Equal(t, peer.DeriveMAC("pods", "a", inet.IPv4), first.V4.MAC)
	ip(t, n.ns, "link del "+first.Devices[0])
	again, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	require.Equal(t, first.Reach, again.Reach)
	ip(t, n.ns, "link set "+first.Devices[0]+" address 02:00:00:00:00:07")
	n.open(t, overlay.VXLAN{})
	kept, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	require.Equal(t, "02:00:00:00:00:07", kept.V4.MAC.String(), "an existing device keeps its own")
	n.V4.MAC = inet.MAC{2, 0, 0, 0, 0, 8}
	n.open(t, overlay.VXLAN{})
	stated, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	require.Equal(t, n.V4.MAC, stated.V4.MAC)
	require.Contains(t, ip(t, n.ns, "link show "+first.Devices[0]), "02:00:00:00:00:08")
	b := c.nodes[1]
	b.open(t, overlay.VXLAN{})
	require.NoError(t, b.net.Set(t.Context(), c.peers()))
	require.Contains(t, ip(t, b.ns, "neigh show 10.244.1.0"), "02:00:00:00:00:08")
}

func TestADeviceWithOtherParametersIsMadeAnew(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	c.up(overlay.VXLAN{})
	c.addPods()
	c.up(overlay.VXLAN{VNI: 77, Port: overlay.PortFlannel})
	c.reach()
	require.Contains(t, ip(t, c.nodes[0].ns, "-d link show type vxlan"), "vxlan id 77 local 192.0.2.11 srcport 0 0 dstport 8472")
	require.Equal(t, 1, countLines(ip(t, c.nodes[0].ns, "-o link show type vxlan")))
	c.up(overlay.VXLAN{GPE: true})
	c.reach()
	require.Equal(t, 1, countLines(ip(t, c.nodes[0].ns, "-o link show type vxlan")), "the device of the other form is left")
	for _, n := range c.nodes {
		require.NoError(t, n.net.Check(t.Context()))
	}
}

func TestANodeWithAnotherRangeMovesItsAddress(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	c.up(overlay.VXLAN{})
	n := c.nodes[0]
	n.Pods = []netip.Prefix{netip.MustParsePrefix("10.244.50.0/24"), n.Pods[1]}
	n.open(t, overlay.VXLAN{})
	require.NoError(t, n.net.Set(t.Context(), c.peers()))
	out := ip(t, n.ns, "-4 addr show type vxlan")
	require.Contains(t, out, "10.244.50.0/32")
	require.NotContains(t, out, "10.244.1.0/32")
	require.Contains(t, ip(t, n.ns, "route show 10.244.2.0/24"), "src 10.244.50.0")
}

func TestAfterAnInterruptedSetTheNextOneMends(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		c.up(e)
		want := c.dumps()
		n := c.nodes[0]
		// What a kill between two writes leaves: a part of the objects, and no stamp.
		for _, harm := range []string{"-4 route flush proto 117", "-6 route flush proto 117", "neigh flush nud permanent"} {
			ip(t, n.ns, harm)
			n.open(t, e)
			require.NoError(t, n.net.Set(t.Context(), c.peers()), harm)
			same(t, want, c.dumps(), harm)
		}
	})
}

func TestTheStampSparesEverythingWhenNothingChangedAndNothingElse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 3)
		c.keys(e)
		n := c.nodes[0]
		loads := 0
		apply := func(id string) {
			t.Helper()
			n.open(t, e)
			mtu, err := n.net.Apply(t.Context(), id, func() ([]peer.Peer, error) { loads++; return c.peers(), nil })
			require.NoError(t, err)
			require.Positive(t, mtu)
			require.NoError(t, n.net.Check(t.Context()))
		}
		fresh := func() bool { n.open(t, e); return n.net.Fresh("1") }
		apply("1")
		require.Equal(t, 1, loads)
		require.True(t, fresh())
		apply("1")
		require.Equal(t, 1, loads, "nothing had changed")
		apply("2")
		require.Equal(t, 2, loads, "the list had another identity")
		apply("")
		apply("")
		require.Equal(t, 4, loads, "an empty identity is never trusted")
		apply("1")
		for _, harm := range []string{"-4 route flush proto 117", "-6 route flush proto 117"} {
			ip(t, n.ns, harm)
			require.False(t, fresh(), harm)
			apply("1")
			require.True(t, fresh(), harm)
		}
		n.Peer.Pods = []netip.Prefix{netip.MustParsePrefix("10.244.50.0/24")}
		require.False(t, fresh(), "the options changed")
		n.Peer.Pods = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
		require.True(t, fresh())
		stamps, err := filepath.Glob(filepath.Join(n.dir, "pods", "*.stamp"))
		require.NoError(t, err)
		require.Len(t, stamps, 1)
		good, err := os.ReadFile(stamps[0])
		require.NoError(t, err)
		elsewhere := c.add()
		elsewhere.Peer, elsewhere.dir = n.Peer, n.dir
		elsewhere.open(t, e)
		require.False(t, elsewhere.net.Fresh("1"), "it is another namespace's")
		require.NoError(t, os.WriteFile(stamps[0], good[:len(good)/2], 0o644))
		require.False(t, fresh(), "torn")
	})
}

func TestTheStampDoesNotStandWithoutAWayToThePeers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 2)
		c.keys(e)
		n := c.nodes[0]
		apply := func() error {
			n.open(t, e)
			_, err := n.net.Apply(t.Context(), "1", func() ([]peer.Peer, error) { return c.peers(), nil })
			return err
		}
		fresh := func() bool { n.open(t, e); return n.net.Fresh("1") }
		require.NoError(t, apply())
		require.True(t, fresh())
		for _, typ := range []string{"blackhole", "unreachable", "prohibit"} {
			ip(t, n.ns, "route add "+typ+" 192.0.2.12")
			ip(t, n.ns, "route add "+typ+" 2001:db8::12")
			require.False(t, fresh(), typ)
			require.ErrorContains(t, apply(), `no peer of network "pods" can be reached`)
			require.False(t, fresh(), "an error leaves none")
			ip(t, n.ns, "route del "+typ+" 192.0.2.12")
			ip(t, n.ns, "route del "+typ+" 2001:db8::12")
			require.NoError(t, apply())
			require.True(t, fresh())
		}
		ip(t, c.wire, "link set dev port1 down")
		require.Eventually(t, func() bool { return !fresh() }, patience, time.Millisecond, "no carrier")
		ip(t, c.wire, "link set dev port1 up")
		require.Eventually(t, fresh, patience, time.Millisecond, "the same way again needs no work")
	})
}

func TestADeviceWhoseMakerWasKilledBeforeItWasUpGetsNoLinkLocalAddress(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 1)
	c.up(overlay.VXLAN{})
	n := c.nodes[0]
	want := c.dumps()
	h := nstest.Netlink(t, n.ns)
	links, err := h.LinkList()
	require.NoError(t, err)
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Type() == "vxlan" })
	require.NoError(t, h.LinkSetDown(links[i]))
	nstest.Sysctl(t, n.ns, "net/ipv6/conf/"+links[i].Attrs().Name+"/addr_gen_mode", "0")
	require.NoError(t, n.net.Repair(t.Context()))
	nstest.Settle(t, n.ns)
	same(t, want, c.dumps(), "after the repair")
}
