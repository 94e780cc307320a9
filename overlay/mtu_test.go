//go:build linux

package overlay_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

func TestTheMTUIsThatOfEachPathAndPodsGetTheSmallest(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	n, near, far := c.nodes[0], c.nodes[1], c.nodes[2]
	ip(t, n.ns, "link set eth0 mtu 9000")
	ip(t, n.ns, "route add 192.0.2.13/32 dev eth0 mtu 1400")
	n.open(t, overlay.VXLAN{})
	require.NoError(t, n.net.Set(t.Context(), c.peers()))
	require.Equal(t, 8950, n.net.MTU(near.Peer))
	require.Equal(t, 1350, n.net.MTU(far.Peer))
	require.Equal(t, 1350, n.net.MTU(peer.Peer{}))
	require.NoError(t, n.net.Check(t.Context()))
	self, err := n.net.Ensure(t.Context())
	require.NoError(t, err)
	require.Contains(t, ip(t, n.ns, "link show "+self.Devices[0]), "mtu 8950")
	require.Contains(t, ip(t, n.ns, "route show 10.244.3.0/24"), "mtu 1350")
	require.NotContains(t, ip(t, n.ns, "route show 10.244.2.0/24"), "mtu")
	require.Contains(t, ip(t, n.ns, "-6 route show fd00:10:244:3::/64"), "mtu 1350")

	ip(t, n.ns, "route del 192.0.2.13/32 dev eth0 mtu 1400")
	require.ErrorContains(t, n.net.Check(t.Context()), "10.244.3.0/24")
	require.NoError(t, n.net.Repair(t.Context()))
	require.Equal(t, 8950, n.net.MTU(peer.Peer{}))

	n.open(t, overlay.VXLAN{}, func(o *overlay.Options) { o.MTU = 1300 })
	require.NoError(t, n.net.Set(t.Context(), c.peers()))
	require.Equal(t, 1300, n.net.MTU(near.Peer))
	require.Contains(t, ip(t, n.ns, "link show "+self.Devices[0]), "mtu 1300")
}

func TestAnMTUTooSmallForIPv6IsAnError(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 3)
	n := c.nodes[0]
	ip(t, n.ns, "route add 192.0.2.13/32 dev eth0 mtu 1300")
	n.open(t, overlay.VXLAN{})
	err := n.net.Set(t.Context(), c.peers())
	require.Len(t, overlay.OnlyRefused(err), 1, "%v", err)
	require.ErrorContains(t, err, `peer "c": 1250 bytes are left for pods on the way to it, and IPv6 needs 1280`)
	ip(t, n.ns, "link set eth0 mtu 1310")
	err = n.net.Repair(t.Context())
	require.Nil(t, overlay.OnlyRefused(err))
	require.ErrorContains(t, err, `network "pods": 1260 bytes are left for pods, and IPv6 needs 1280`)
	o := n.options(func(o *overlay.Options) { o.MTU = 1200 })
	_, err = overlay.New(o, overlay.VXLAN{})
	require.ErrorContains(t, err, "mtu 1200: IPv6 needs 1280 bytes")
	o.Node.Pods = o.Node.Pods[:1]
	_, err = overlay.New(o, overlay.VXLAN{})
	require.NoError(t, err, "without IPv6")
}

func TestPathsAreAskedOfTheKernelWhereRulesDecide(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c := newCluster(t, 2)
	n := c.nodes[0]
	far := c.nodes[1].Peer
	far.Name, far.Pods = "far", []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}
	far.V4.Addr, far.V6.Addr = netip.MustParseAddr("203.0.113.9"), netip.Addr{}
	ip(t, n.ns, "route add 203.0.113.0/24 via 192.0.2.12 dev eth0 mtu 1400 table 100")
	ip(t, n.ns, "rule add from all lookup 100")
	n.open(t, overlay.VXLAN{})
	require.NoError(t, n.net.Set(t.Context(), append(c.peers(), far)))
	require.Equal(t, 1350, n.net.MTU(far))
	require.Equal(t, 1450, n.net.MTU(c.nodes[1].Peer))
	n.open(t, overlay.Direct{})
	require.ErrorContains(t, n.net.Set(t.Context(), append(c.peers(), far)), `peer "far": its endpoint 203.0.113.9 is not on a link of this node but behind the router 192.0.2.12`)
}

func TestHostGWNamesWhatAPeerLacks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	n := c.nodes[0]
	c.nodes[1].V6 = peer.Endpoint{}
	c.nodes[2].V4 = peer.Endpoint{}
	far := c.nodes[3]
	far.V4.Addr = netip.MustParseAddr("198.51.100.7")
	ip(t, n.ns, "route add default via 192.0.2.254")
	n.open(t, overlay.Direct{})
	err := n.net.Set(t.Context(), c.peers())
	require.Len(t, overlay.OnlyRefused(err), 2, "%v", err)
	require.ErrorContains(t, err, `peer "b": its range fd00:10:244:2::/64 needs an IPv6 endpoint, and it has 192.0.2.12`)
	require.ErrorContains(t, err, `"encap": "vxlan"`)
	require.ErrorContains(t, err, `peer "d": its endpoint 198.51.100.7 is not on a link of this node but behind the router 192.0.2.254`)
	out := routes(t, n.ns)
	require.Contains(t, out, "10.244.2.0/24 via 192.0.2.12")
	require.Contains(t, out, "10.244.3.0/24 via inet6 2001:db8::13", "IPv4 may go by an IPv6 endpoint")
	require.Contains(t, out, "fd00:10:244:3::/64 via 2001:db8::13")
	require.Contains(t, out, "fd00:10:244:4::/64 via 2001:db8::14", "its other range is served")
	require.False(t, strings.Contains(out, "10.244.4.0/24"))
}

func TestAnOptionThatCannotBeIsRefusedWithItsNameAndRemedy(t *testing.T) {
	t.Parallel()
	n := &node{ns: nstest.New(t), dir: t.TempDir(), Peer: peer.Peer{Name: "a", Pods: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11")}}}}
	for says, change := range map[string]func(*overlay.Options){
		"no network namespace is given":              func(o *overlay.Options) { o.NS = nil },
		`name of the network "../x"`:                 func(o *overlay.Options) { o.Network = "../x" },
		"this node has no name":                      func(o *overlay.Options) { o.Node.Name = "" },
		"has no endpoint":                            func(o *overlay.Options) { o.Node.V4 = peer.Endpoint{} },
		"the underlay is to be ipv6":                 func(o *overlay.Options) { o.Underlay = inet.IPv6 },
		"mtu 40":                                     func(o *overlay.Options) { o.MTU = 40 },
		`device: interface name "a-name-of-16-byte"`: func(o *overlay.Options) { o.Device = "a-name-of-16-byte" },
	} {
		_, err := overlay.New(n.options(change), overlay.VXLAN{})
		require.ErrorContains(t, err, says)
	}
	_, err := overlay.New(n.options(), overlay.VXLAN{VNI: 1 << 24})
	require.ErrorContains(t, err, "vni 16777216: does not fit into 24 bits")
	_, err = overlay.New(n.options(), overlay.WireGuard{Keepalive: 1})
	require.ErrorContains(t, err, "keepalive 1ns")
}
