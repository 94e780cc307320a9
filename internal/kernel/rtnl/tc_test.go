//go:build linux

package rtnl_test

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestATokenBucketIsSetChangedReadBackAndRemoved(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Shaping)
	_, c, other := world(t)
	dev := bridgeUp(t, c, "br0")
	read := func() (q rtnl.Qdisc) {
		require.NoError(t, c.Do(rtnl.GetQdisc(dev, rtnl.Root, func(x rtnl.Qdisc) { q = x })))
		return q
	}
	for _, want := range []rtnl.TBF{{Rate: 1_250_000, Burst: 25_000, Limit: 90_000}, {Rate: 12_500_000_000, Burst: 250_000_000, Limit: 1 << 30}, {Rate: 1, Burst: 1514, Limit: 5000}} {
		require.NoError(t, c.Do(rtnl.ReplaceQdisc(rtnl.Qdisc{Link: dev, Parent: rtnl.Root, Handle: 1, Kind: "tbf", TBF: want})))
		require.ErrorIs(t, c.Do(rtnl.NewQdisc(rtnl.Qdisc{Link: dev, Parent: rtnl.Root, Handle: 1, Kind: "tbf", TBF: want})), fs.ErrExist)
		have := read()
		require.Equal(t, []any{dev, uint32(rtnl.Root), uint16(1), "tbf", want.Rate, want.Limit}, []any{have.Link, have.Parent, have.Handle, have.Kind, have.TBF.Rate, have.TBF.Limit})
		require.InDelta(t, want.Fill().Ticks, have.TBF.Ticks, 1+float64(want.Fill().Ticks)/1000)
		if want.Rate > 1 {
			require.InEpsilon(t, want.Burst, have.TBF.Burst, 0.001)
		}
		theirs, err := other.QdiscList(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: dev}})
		require.NoError(t, err)
		require.Equal(t, want.Rate, theirs[0].(*netlink.Tbf).Rate)
		require.Equal(t, want.Limit, theirs[0].(*netlink.Tbf).Limit)
	}
	all, err := c.Qdiscs()
	require.NoError(t, err)
	require.Contains(t, all, read())
	require.Error(t, c.Do(rtnl.DelQdisc(dev, rtnl.Root, 2)), "another handle")
	require.NoError(t, c.Do(rtnl.DelQdisc(dev, rtnl.Root, 1)))
	require.Zero(t, read().Handle)
	require.ErrorIs(t, c.Do(rtnl.GetQdisc(dev, rtnl.Ingress, nil)), fs.ErrNotExist)
}

func TestWhatALinkReceivesIsRedirectedAndTheFilterIsToldFromOthers(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Shaping)
	for _, kind := range []string{"ingress", "clsact"} {
		ns, c, other := world(t)
		dev := bridgeUp(t, c, "br0")
		require.NoError(t, c.Do(rtnl.NewLink(rtnl.New{Name: "ifb-x", Kind: rtnl.Plain("ifb"), MTU: 1400, Up: true})))
		ifb, err := c.LinkByName("ifb-x")
		require.NoError(t, err)
		require.Equal(t, []any{"ifb", 1400, true}, []any{ifb.Kind, ifb.MTU, ifb.Up()})
		list, others, err := c.Filters(dev)
		require.NoError(t, err)
		require.Empty(t, list)
		require.Zero(t, others)
		require.NoError(t, c.Do(rtnl.NewQdisc(rtnl.Qdisc{Link: dev, Parent: rtnl.Ingress, Kind: kind}), rtnl.NewRedirect(dev, ifb.Index)))
		if kind == "ingress" {
			theirs, err := other.FilterList(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: dev}}, netlink.HANDLE_INGRESS+1)
			require.NoError(t, err)
			require.Equal(t, ifb.Index, theirs[0].(*netlink.U32).Actions[0].(*netlink.MirredAction).Ifindex)
		}
		nstest.Run(t, ns, "tc", "filter", "add", "dev", "br0", "ingress", "protocol", "ip", "prio", "7", "u32", "match", "ip", "dst", "192.0.2.1", "action", "mirred", "egress", "redirect", "dev", "ifb-x")
		list, others, err = c.Filters(dev)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, []int{dev, ifb.Index, 1}, []int{list[0].Link, list[0].To, others})
		require.NoError(t, c.Do(rtnl.DelLinkIndex(ifb.Index)))
		list, _, err = c.Filters(dev)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Zero(t, list[0].To, "the device is gone, the filter is not")
		require.NoError(t, c.Do(rtnl.DelRedirect(list[0])))
		list, others, err = c.Filters(dev)
		require.NoError(t, err)
		require.Empty(t, list)
		require.Equal(t, 1, others)
		require.NoError(t, c.Do(rtnl.DelQdisc(dev, rtnl.Ingress, 0)))
		require.ErrorIs(t, c.Do(rtnl.DelQdisc(dev, rtnl.Ingress, 0)), unix.EINVAL)
	}
}
