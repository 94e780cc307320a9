//go:build linux

package link_test

import (
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
)

func TestNeighboursAreListedWithWhoseTheyAre(t *testing.T) {
	t.Parallel()
	ns, eth0 := pair(t)
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	ours, theirs, waiting := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("192.0.2.8")
	mac := inet.MAC{2, 0, 0, 0, 0, 7}
	require.NoError(t, c.Do(rtnl.ReplaceNeigh(rtnl.Neigh{Link: eth0.Index, IP: ours, MAC: mac, Proto: link.Proto}),
		rtnl.ReplaceNeigh(rtnl.Neigh{Link: eth0.Index, IP: theirs, MAC: mac})))
	require.NoError(t, nstest.Netlink(t, ns).NeighSet(&netlink.Neigh{LinkIndex: eth0.Index, IP: waiting.AsSlice(), HardwareAddr: mac[:], State: netlink.NUD_STALE}))
	list, err := link.Neighbours(t.Context(), ns, "eth0")
	require.NoError(t, err)
	for _, want := range []link.Neighbour{{Addr: ours, MAC: mac, Permanent: true, Ours: true}, {Addr: theirs, MAC: mac, Permanent: true}, {Addr: waiting, MAC: mac}} {
		require.Contains(t, list, want)
	}
	for _, n := range list {
		require.False(t, n.Addr.IsMulticast())
	}
	_, err = link.Neighbours(t.Context(), ns, "none")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
