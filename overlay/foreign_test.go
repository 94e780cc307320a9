//go:build linux

package overlay_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// routes are those of the main table of both families, as ip(8) prints them.
func routes(t testing.TB, ns *netns.NS) string {
	t.Helper()
	return ip(t, ns, "-4 -d route show") + ip(t, ns, "-6 -d route show")
}

func TestForeignObjectsStayAndOneInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	for _, e := range []overlay.Encap{overlay.VXLAN{}, overlay.Direct{}} {
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3)
			n := c.nodes[0]
			foreign := []string{
				"10.244.2.0/24 via 192.0.2.99 dev eth0 proto static",        // in the way of b
				"fd00:10:244:3::/64 via 2001:db8::99 dev eth0 proto static", // in the way of c
				"10.244.9.0/24 via 192.0.2.99 dev eth0 proto static",
				"10.244.2.128/25 via 192.0.2.99 dev eth0 proto static",
				"10.99.0.0/16 via 192.0.2.99 dev eth0 proto 117 metric 3",
			}
			for _, r := range foreign {
				ip(t, n.ns, "route add "+r)
			}
			n.open(t, e)
			for range 2 { // in memory too
				err := n.net.Set(t.Context(), c.peers())
				refused := overlay.OnlyRefused(err)
				require.Len(t, refused, 2, "%v", err)
				require.ErrorContains(t, err, `peer "b": route 10.244.2.0/24`)
				require.ErrorContains(t, err, "a foreign route 10.244.2.0/24 via 192.0.2.99")
				require.ErrorContains(t, err, "dev eth0 (protocol 4) stands in the way")
				require.ErrorContains(t, err, `peer "c": route fd00:10:244:3::/64`)
			}
			require.Error(t, n.net.Check(t.Context()))
			out := routes(t, n.ns)
			for _, r := range foreign {
				require.Contains(t, out, strings.Fields(r)[0]+" via "+strings.Fields(r)[2])
			}
			require.Contains(t, out, "10.244.3.0/24", "c's other range is served")
			require.NoError(t, n.net.Set(t.Context(), c.peers()[:1]))
			require.NoError(t, n.net.Close(t.Context()))
			out = routes(t, n.ns)
			for _, r := range foreign {
				require.Contains(t, out, strings.Fields(r)[0]+" via "+strings.Fields(r)[2])
			}
			ip(t, n.ns, "route del 10.244.2.0/24")
			ip(t, n.ns, "-6 route del fd00:10:244:3::/64")
			require.NoError(t, n.net.Set(t.Context(), c.peers()))
			require.NoError(t, n.net.Check(t.Context()))
		})
	}
}

func TestARouteThatAppearsBesideIsNoticedByTheNextPeerThatNeedsItsPlace(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	n := c.nodes[0]
	n.open(t, overlay.Direct{})
	require.NoError(t, n.net.Set(t.Context(), c.peers()[:2]))
	ip(t, n.ns, "route add 10.244.3.0/24 via 192.0.2.99 dev eth0 proto static")
	require.ErrorContains(t, n.net.Set(t.Context(), c.peers()), `peer "c": route 10.244.3.0/24`)
	require.Contains(t, routes(t, n.ns), "10.244.3.0/24 via 192.0.2.99")
	require.NotContains(t, ip(t, n.ns, "route show 10.244.3.0/24"), "192.0.2.13")
}

func TestForeignNeighboursAndFDBEntriesOnOurDeviceStay(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	n := c.nodes[0]
	n.open(t, overlay.VXLAN{})
	self, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	dev := self.Devices[0]
	ip(t, n.ns, "neigh add 10.244.2.0 lladdr 02:00:00:00:00:aa dev "+dev+" nud permanent")
	ip(t, n.ns, "neigh add 10.244.99.0 lladdr 02:00:00:00:00:ab dev "+dev+" nud permanent")
	mac := peer.DeriveMAC("pods", "c", inet.IPv4).String()
	for _, f := range []string{"02:00:00:00:00:ac dst 192.0.2.99", mac + " dst 192.0.2.99"} {
		out, err := run(n.ns, "bridge", "fdb add "+f+" dev "+dev)
		require.NoError(t, err, out)
	}
	ip(t, n.ns, "addr add 10.244.1.77/32 dev "+dev)
	err = n.net.Set(t.Context(), c.peers())
	require.Len(t, overlay.OnlyRefused(err), 2, "%v", err)
	require.ErrorContains(t, err, `peer "b": neighbour 10.244.2.0`)
	require.ErrorContains(t, err, `peer "c": FDB entry `+mac)
	require.NoError(t, n.net.Set(t.Context(), nil))
	require.NoError(t, n.net.Check(t.Context()))
	neigh := ip(t, n.ns, "neigh show dev "+dev)
	require.Contains(t, neigh, "02:00:00:00:00:aa")
	require.Contains(t, neigh, "02:00:00:00:00:ab")
	require.NotContains(t, neigh, "proto 117")
	fdb, err := run(n.ns, "bridge", "fdb show dev "+dev)
	require.NoError(t, err)
	require.Contains(t, fdb, "02:00:00:00:00:ac dst 192.0.2.99")
	require.Contains(t, fdb, mac+" dst 192.0.2.99")
	require.NotContains(t, fdb, "extern_learn")
	require.Contains(t, ip(t, n.ns, "addr show dev "+dev), "10.244.1.77/32")
}

func TestADeviceInTheWayIsNamedWithItsOwner(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	vni := func(o *overlay.Options) { o.Node.V4.VNI = 5 }
	for _, s := range []struct {
		what, there string
		encap       overlay.Encap
		says        []string
		need        []nstest.Feature
	}{
		{"the same VNI and port", "link add flannel.5 up type vxlan id 5 dstport 4789 local 192.0.2.11", overlay.VXLAN{VNI: 5},
			[]string{"flannel.5 is there, the device of flannel: it has VNI 5 on UDP port 4789"}, nil},
		{"a whole port", "link add vxlan_sys_4789 up type vxlan external dstport 4789", overlay.VXLAN{},
			[]string{"vxlan_sys_4789 is there, the device of Open vSwitch: it takes all of UDP port 4789"}, nil},
		{"a port that we want whole", "link add cilium_vxlan up type vxlan external gpe dstport 4790", overlay.VXLAN{GPE: true},
			[]string{"cilium_vxlan is there, the device of Cilium: it takes all of UDP port 4790"}, nil},
		{"the port of geneve", "link add genev_sys_6081 up type geneve external dstport 6081", overlay.Geneve{},
			[]string{"genev_sys_6081 is there, the device of Open vSwitch: it takes all of UDP port 6081"}, []nstest.Feature{nstest.Geneve}},
		{"the only external gre", "link add gre_ext up type gre external", overlay.GRE{},
			[]string{"gre_ext is there: it is external, and there may be only one of kind gre"}, []nstest.Feature{nstest.GRE, nstest.IP6GRE}},
		{"the same end of ipip", "link add other up type ipip local 192.0.2.11", overlay.IPIP{},
			[]string{"other is there: it is the ipip tunnel of 192.0.2.11"}, []nstest.Feature{nstest.IPIP, nstest.SIT, nstest.IP6Tnl}},
		{"the name", "link add cb-gpe type veth peer name other", overlay.VXLAN{GPE: true},
			[]string{"device cb-gpe (kind veth) is not ours", "cniblocks/pods"}, nil},
	} {
		t.Run(s.what, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			c := newCluster(t, 2)
			n := c.nodes[0]
			ip(t, n.ns, s.there)
			before := c.dumps()
			n.open(t, s.encap, vni)
			_, err := n.net.Ensure(t.Context())
			for _, words := range s.says {
				require.ErrorContains(t, err, words)
			}
			require.Error(t, n.net.Set(t.Context(), c.peers()))
			same(t, before, c.dumps(), "after a refusal")
			require.NoError(t, n.net.Close(t.Context()))
			same(t, before, c.dumps(), "after Close")
		})
	}
}

func TestNetworksOfOneNodeShareADeviceAndDoNotTouchEachOther(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		encap overlay.Encap
		need  []nstest.Feature
	}{
		{overlay.VXLAN{}, []nstest.Feature{nstest.VXLAN}}, {overlay.VXLAN{GPE: true}, []nstest.Feature{nstest.VXLAN}},
		{overlay.GRE{}, []nstest.Feature{nstest.GRE}}, {overlay.Geneve{}, []nstest.Feature{nstest.Geneve}},
		{overlay.IPIP{}, []nstest.Feature{nstest.IPIP, nstest.SIT}}, {overlay.Direct{}, nil},
	} {
		t.Run(s.encap.Name(), func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			c := newCluster(t, 2)
			for _, n := range c.nodes { // both underlay families need kinds of their own
				n.V6 = peer.Endpoint{}
				n.Pods = n.Pods[:1]
			}
			n := c.nodes[0]
			before := c.dumps()
			n.open(t, s.encap)
			require.NoError(t, n.net.Set(t.Context(), c.peers()))
			alone := c.dumps()
			self := n.Peer
			self.Pods = []netip.Prefix{netip.MustParsePrefix("10.99.1.0/24")}
			o := n.options()
			o.Network, o.Node, o.Prefixes = "lab", self, []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
			lab, err := overlay.New(o, s.encap)
			require.NoError(t, err)
			b := c.nodes[1].Peer
			b.Pods = []netip.Prefix{netip.MustParsePrefix("10.99.2.0/24")}
			require.NoError(t, lab.Set(t.Context(), []peer.Peer{self, b}))
			require.NoError(t, lab.Check(t.Context()))
			require.NoError(t, n.net.Check(t.Context()))
			require.NoError(t, n.net.Repair(t.Context()))
			require.NoError(t, lab.Check(t.Context()), "the other network's repair took something")
			require.NoError(t, lab.Close(t.Context()))
			require.NoError(t, n.net.Check(t.Context()))
			same(t, alone, c.dumps(), "after the other network went")
			require.NoError(t, n.net.Close(t.Context()))
			same(t, before, c.dumps(), "after both went")
		})
	}
}

func TestAnOverlayAboveHostGWOfTheSameNetworkLeaveEachOtherAlone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	n := c.nodes[0]
	before := c.dumps()
	near, err := overlay.New(n.options(), overlay.Direct{})
	require.NoError(t, err)
	far, err := overlay.New(n.options(), overlay.VXLAN{DirectRouting: true})
	require.NoError(t, err)
	require.NoError(t, near.Set(t.Context(), c.peers()[:2]))
	require.NoError(t, far.Set(t.Context(), c.peers()))
	for range 2 {
		require.NoError(t, near.Repair(t.Context()))
		require.NoError(t, far.Repair(t.Context()))
		require.NoError(t, near.Check(t.Context()))
		require.NoError(t, far.Check(t.Context()))
	}
	require.NoError(t, far.Close(t.Context()))
	require.NoError(t, near.Check(t.Context()))
	require.NoError(t, near.Close(t.Context()))
	same(t, before, c.dumps(), "after both went")
}

func TestADeviceThatWasGivenAnotherNameIsMadeAnew(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	n := c.nodes[0]
	n.open(t, overlay.VXLAN{})
	require.NoError(t, n.net.Set(t.Context(), c.peers()))
	before := routes(t, n.ns)
	own, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	ip(t, n.ns, "link set "+own.Devices[0]+" down name other")
	require.NoError(t, n.net.Repair(t.Context()))
	require.NotContains(t, ip(t, n.ns, "link show"), "other")
	require.Equal(t, before, routes(t, n.ns))
	require.NoError(t, n.net.Check(t.Context()))
}
