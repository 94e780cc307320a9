//go:build linux

package overlay_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// addBridge makes a bridge with the gateway address of the node's range, in the subnet of the whole network.
func (n *node) addBridge(t testing.TB) {
	t.Helper()
	ip(t, n.ns, fmt.Sprintf("link add cni0 address 02:00:00:00:01:%02x type bridge", n.Name[0]))
	ip(t, n.ns, "link set cni0 up")
	nstest.AddAddrs(t, n.ns, "cni0", n.Pods[0].Addr().Next().String()+"/16", n.Pods[1].Addr().Next().String()+"/48")
}

// plug attaches two pods to the bridge.
func (n *node) plug(t testing.TB, mtu int) {
	t.Helper()
	for i := 1; i <= 2; i++ {
		r4, r6 := n.Pods[0].Addr().As4(), n.Pods[1].Addr().As16()
		r4[3], r6[15] = byte(1+i), byte(1+i)
		p := pod{ns: nstest.New(t), v4: netip.AddrFrom4(r4), v6: netip.AddrFrom16(r6), host: fmt.Sprintf("pod%d", i)}
		nstest.Link(t, nstest.End{NS: n.ns, Name: p.host, MTU: mtu},
			nstest.End{NS: p.ns, Name: "eth0", MTU: mtu, Addrs: []string{p.v4.String() + "/16", p.v6.String() + "/48"}})
		ip(t, n.ns, "link set "+p.host+" master cni0")
		n.pods = append(n.pods, p)
	}
}

func TestOneSubnetSpansTheNodesThroughTunnelsOnTheirBridges(t *testing.T) {
	t.Parallel()
	bridge := overlay.L2{Bridge: "cni0"}
	for _, s := range []struct {
		name  string
		encap overlay.Encap
		under inet.Family
		need  nstest.Feature
	}{
		{"vxlan over IPv4", overlay.VXLAN{L2: bridge}, inet.IPv4, nstest.VXLAN},
		{"vxlan over IPv6", overlay.VXLAN{L2: bridge}, inet.IPv6, nstest.VXLAN},
		{"gre over IPv4", overlay.GRE{L2: bridge}, inet.IPv4, nstest.GRETap},
		{"gre over IPv6", overlay.GRE{L2: bridge}, inet.IPv6, nstest.IP6GRETap},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need, nstest.Bridge)
			c := newCluster(t, 3)
			for _, n := range c.nodes {
				n.addBridge(t)
			}
			before := c.dumps()
			c.up(s.encap, func(o *overlay.Options) { o.Underlay = s.under })
			for _, n := range c.nodes {
				n.plug(t, n.net.MTU(peer.Peer{}))
			}
			for _, from := range c.nodes {
				for _, to := range c.nodes {
					for _, dst := range to.pods {
						if from != to {
							c.pings(from.pods[0].ns, dst, from.Name+" to "+to.Name, nil)
							c.pings(from.ns, dst, "node "+from.Name+" to "+to.Name, nil)
						}
					}
				}
			}
			mtu := c.nodes[0].net.MTU(c.nodes[1].Peer)
			for _, a := range c.nodes[1].pods[0].addrs(nil) {
				at := nstest.Serve(t, c.nodes[1].pods[0].ns, netip.AddrPortFrom(a, 0))
				require.NoError(t, nstest.Stream(t.Context(), c.nodes[0].pods[0].ns, at, 4<<20))
				probe := ping.Options{NoFrag: true, Timeout: patience, Size: ping.Payload(mtu, a)}
				require.NoError(t, nstest.Ping(t.Context(), c.nodes[0].pods[0].ns, a, probe))
				probe.Size++
				require.ErrorContains(t, nstest.Ping(t.Context(), c.nodes[0].pods[0].ns, a, probe), "message too long")
			}
			n := c.nodes[0]
			require.NoError(t, n.net.Check(t.Context()))
			gone := c.nodes[2]
			ip(t, gone.ns, "link set eth0 down") // else what it sends is learned again
			require.NoError(t, n.net.Set(t.Context(), c.peers()[:2]))
			require.NoError(t, n.net.Check(t.Context()))
			fdb, err := run(n.ns, "bridge", "fdb show")
			require.NoError(t, err)
			require.NotContains(t, fdb, "dst "+gone.V4.Addr.String()+" ", "the peer left")
			require.NotContains(t, fdb, "dst "+gone.V6.Addr.String()+" ", "the peer left")
			ip(t, gone.ns, "link set eth0 up")
			nstest.AddAddrs(t, gone.ns, "eth0", gone.V6.Addr.String()+"/64")
			for _, n := range c.nodes {
				require.NoError(t, n.net.Close(t.Context()))
				for _, p := range n.pods {
					ip(t, n.ns, "link del "+p.host)
				}
			}
			same(t, before, c.dumps(), "after Close")
		})
	}
}

func TestASecondWayOutOfABridgeIsRefusedUnlessItIsAllowed(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN, nstest.Bridge)
	c := newCluster(t, 2)
	n := c.nodes[0]
	n.open(t, overlay.VXLAN{L2: overlay.L2{Bridge: "cni0"}})
	_, err := n.net.Ensure(t.Context())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "cni0")
	n.addBridge(t)
	_, err = n.net.Ensure(t.Context())
	require.NoError(t, err)
	lab := n.options()
	lab.Network = "lab"
	second, err := overlay.New(lab, overlay.VXLAN{L2: overlay.L2{Bridge: "cni0"}})
	require.NoError(t, err)
	_, err = second.Ensure(t.Context())
	require.ErrorContains(t, err, "another way to other machines: two of them can form a loop")
	require.ErrorContains(t, err, "allowUplink")
	second, err = overlay.New(lab, overlay.VXLAN{L2: overlay.L2{Bridge: "cni0", AllowUplink: true}})
	require.NoError(t, err)
	_, err = second.Ensure(t.Context())
	require.NoError(t, err)
	require.NoError(t, second.Close(t.Context()))
	n.open(t, overlay.VXLAN{L2: overlay.L2{Bridge: "eth0"}})
	_, err = n.net.Ensure(t.Context())
	require.ErrorContains(t, err, `eth0 is of kind "veth", not a bridge`)
}
