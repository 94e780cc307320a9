//go:build linux

package overlay_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
)

// setups are the encapsulations with the features that they need from the kernel.
var setups = []struct {
	name     string
	encap    overlay.Encap
	need     []nstest.Feature
	underlay inet.Family
}{
	{"vxlan over IPv4", overlay.VXLAN{}, []nstest.Feature{nstest.VXLAN}, 0},
	{"vxlan over IPv6", overlay.VXLAN{}, []nstest.Feature{nstest.VXLAN}, inet.IPv6},
	{"vxlan with group policy", overlay.VXLAN{GBP: true}, []nstest.Feature{nstest.VXLAN}, 0},
	{"vxlan with direct routing", overlay.VXLAN{DirectRouting: true}, []nstest.Feature{nstest.VXLAN}, 0},
	{"vxlan-gpe over IPv4", overlay.VXLAN{GPE: true}, []nstest.Feature{nstest.VXLAN}, 0},
	{"vxlan-gpe over IPv6", overlay.VXLAN{GPE: true}, []nstest.Feature{nstest.VXLAN}, inet.IPv6},
	{"gre over IPv4", overlay.GRE{}, []nstest.Feature{nstest.GRE}, inet.IPv4},
	{"gre over IPv6", overlay.GRE{}, []nstest.Feature{nstest.IP6GRE}, inet.IPv6},
	{"gre without a key", overlay.GRE{NoKey: true}, []nstest.Feature{nstest.GRE}, inet.IPv4},
	{"gre point-to-point over IPv4", overlay.GRE{PointToPoint: true}, []nstest.Feature{nstest.GRE}, inet.IPv4},
	{"gre point-to-point over IPv6", overlay.GRE{PointToPoint: true}, []nstest.Feature{nstest.IP6GRE}, inet.IPv6},
	{"ipip over IPv4", overlay.IPIP{}, []nstest.Feature{nstest.IPIP, nstest.SIT}, inet.IPv4},
	{"ipip over IPv6", overlay.IPIP{}, []nstest.Feature{nstest.IP6Tnl}, inet.IPv6},
	{"geneve over IPv4", overlay.Geneve{}, []nstest.Feature{nstest.Geneve}, inet.IPv4},
	{"geneve over IPv6", overlay.Geneve{}, []nstest.Feature{nstest.Geneve}, inet.IPv6},
	{"wireguard over IPv4", overlay.WireGuard{}, []nstest.Feature{nstest.WireGuard}, inet.IPv4},
	{"wireguard over IPv6", overlay.WireGuard{}, []nstest.Feature{nstest.WireGuard}, inet.IPv6},
	{"host-gw", overlay.Direct{}, nil, 0},
}

func TestPodsOfThreeNodesReachEachOtherOverBothFamilies(t *testing.T) {
	t.Parallel()
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			c := newCluster(t, 3)
			before := c.dumps()
			c.keys(s.encap)
			c.up(s.encap, func(o *overlay.Options) { o.Underlay = s.underlay })
			c.addPods()
			c.reach()
			c.streams()
			for _, n := range c.nodes {
				require.NoError(t, n.net.Check(t.Context()), n.Name)
			}
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
