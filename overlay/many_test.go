//go:build linux

package overlay_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
)

func TestAmongThousandsOfPeersWhatIsTakenAwayOrChangedByHandIsFound(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	n := &node{Peer: benchSelf, ns: nstest.New(t)}
	wire := nstest.New(t)
	nstest.Link(t, nstest.End{NS: n.ns, Name: "eth0", Addrs: []string{"172.16.255.254/16"}}, nstest.End{NS: wire, Name: "eth0"})
	peers := many(2500)
	o := overlay.Options{NS: n.ns, Network: "many", Node: benchSelf, StateDir: t.TempDir(), Prefixes: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}}
	net, err := overlay.New(o, overlay.VXLAN{})
	require.NoError(t, err)
	require.NoError(t, net.Set(t.Context(), peers))
	require.NoError(t, net.Check(t.Context()))
	self, err := net.Ensure(t.Context())
	require.NoError(t, err)
	dev := self.Devices[0]
	whole := objectsOf(t, n, dev)
	require.Len(t, whole.routes, 2500)
	require.Len(t, whole.neighs, 2500)
	require.Len(t, whole.fdbs, 2500)

	ip(t, n.ns, "route del 11.3.7.0/24")
	ip(t, n.ns, "neigh del 11.9.1.0 dev "+dev)
	ip(t, n.ns, "neigh replace 11.0.5.0 lladdr 02:00:00:00:00:99 nud permanent dev "+dev)
	fdb := whole.fdbs[17]
	_, err = run(n.ns, "bridge", fmt.Sprintf("fdb del %s dev %s", fdb.MAC, dev))
	require.NoError(t, err)
	err = net.Check(t.Context())
	for _, what := range []string{"route 11.3.7.0/24", "neighbour 11.9.1.0", "neighbour 11.0.5.0", "FDB entry " + fdb.MAC.String()} {
		require.ErrorContains(t, err, what)
	}
	require.NoError(t, net.Repair(t.Context()))
	require.NoError(t, net.Check(t.Context()))
	require.ElementsMatch(t, whole.routes, objectsOf(t, n, dev).routes)

	require.NoError(t, net.Set(t.Context(), peers[:300]))
	left := objectsOf(t, n, dev)
	require.Len(t, left.routes, 300)
	require.Len(t, left.neighs, 300)
	require.Len(t, left.fdbs, 300)
	require.NoError(t, net.Check(t.Context()))
	require.NoError(t, net.Close(t.Context()))
}

// held is what a device of ours holds, as rtnetlink lists it.
type held struct {
	routes []rtnl.Route
	neighs []rtnl.Neigh
	fdbs   []rtnl.FDB
}

func objectsOf(t *testing.T, n *node, dev string) (h held) {
	t.Helper()
	c, err := rtnl.Open(n.ns)
	require.NoError(t, err)
	l, err := c.LinkByName(dev)
	require.NoError(t, err)
	h.routes, err = c.Routes(rtnl.RouteFilter{Link: l.Index, Proto: overlay.Proto})
	require.NoError(t, err)
	neighs, err := c.Neighs(l.Index)
	require.NoError(t, err)
	for _, e := range neighs {
		if e.Proto == overlay.Proto {
			h.neighs = append(h.neighs, e)
		}
	}
	h.fdbs, err = c.FDBs(l.Index)
	require.NoError(t, err)
	return h
}
