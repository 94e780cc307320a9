//go:build linux

package route_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

// router is a namespace with a link eth0 that has addresses of both families.
func router(t *testing.T) *netns.NS {
	t.Helper()
	ns := nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		nstest.End{NS: nstest.New(t), Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	nstest.Settle(t, ns)
	return ns
}

// changes is a socket that hears of every route that comes or goes; it returns how many did since it was last called.
func changes(t *testing.T, ns *netns.NS) func() int {
	t.Helper()
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	const groups = 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}))
	buf := make([]byte, 1<<16)
	return func() (n int) {
		for {
			if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != nil {
				require.ErrorIs(t, err, unix.EAGAIN)
				return n
			}
			n++
		}
	}
}

// wanted are routes of every form that a table is asked for.
var wanted = []route.Route{
	{Dst: prefix("10.1.0.0/16"), Via: ip("192.0.2.2")},
	{Dst: prefix("10.2.0.0/16"), Link: "eth0"},
	{Dst: prefix("10.3.0.0/16"), Via: ip("2001:db8::2")},
	{Dst: prefix("10.4.0.0/16"), Via: ip("198.51.100.9"), Link: "eth0", OnLink: true},
	{Dst: prefix("10.5.0.0/16"), Via: ip("192.0.2.2"), Src: ip("192.0.2.1"), Metric: 50, MTU: 1400, AdvMSS: 1300},
	{Dst: prefix("10.5.0.0/16"), Via: ip("192.0.2.3"), Metric: 60},
	{Dst: prefix("0.0.0.0/0"), Via: ip("192.0.2.2")},
	{Dst: prefix("10.6.0.1/32"), Link: "eth0", Scope: unix.RT_SCOPE_LINK},
	{Dst: prefix("2001:db8:1::/48"), Via: ip("2001:db8::2")},
	{Dst: prefix("2001:db8:2::/48"), Link: "eth0"},
	{Dst: prefix("2001:db8:3::/48"), Via: ip("2001:db8::2"), Src: ip("2001:db8::1"), Metric: 50, MTU: 1400, AdvMSS: 1300},
	{Dst: prefix("::/0"), Via: ip("fe80::9"), Link: "eth0"},
}

func TestReconcileMakesTheTableAsWantedAndThenWritesNothing(t *testing.T) {
	t.Parallel()
	for _, id := range []uint32{0, 99, 4711} {
		t.Run(fmt.Sprint("table ", id), func(t *testing.T) {
			t.Parallel()
			ns := router(t)
			before := nstest.Dump(ns)
			table := route.Table{NS: ns, ID: id}
			require.Error(t, table.Check(t.Context(), slices.Values(wanted)))
			heard := changes(t, ns)
			require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted)))
			require.Equal(t, len(wanted), heard())
			require.NoError(t, table.Check(t.Context(), slices.Values(wanted)))
			require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted)))
			require.Zero(t, heard(), "the same list again")

			have, err := table.List(t.Context())
			require.NoError(t, err)
			require.Len(t, have, len(wanted))
			for _, w := range wanted {
				require.True(t, slices.ContainsFunc(have, func(h route.Route) bool { return h.Dst == w.Dst && h.Via == w.Via && h.MTU == w.MTU }), w)
			}
			require.Equal(t, theirs(t, ns, id), len(wanted))

			require.NoError(t, table.Reconcile(t.Context(), slices.Values[[]route.Route](nil)))
			require.Equal(t, before, nstest.Dump(ns))
		})
	}
}

// theirs counts our routes as another library sees them.
func theirs(t *testing.T, ns *netns.NS, table uint32) (n int) {
	t.Helper()
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := nstest.Netlink(t, ns).RouteListFiltered(family, &netlink.Route{Table: int(table), Protocol: link.Proto},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		require.NoError(t, err)
		n += len(routes)
	}
	return n
}

func TestReconcileAppliesOnlyTheDifference(t *testing.T) {
	t.Parallel()
	ns := router(t)
	table := route.Table{NS: ns}
	require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted)))
	for name, change := range map[string]func([]route.Route) []route.Route{
		"one more": func(r []route.Route) []route.Route {
			return append(r, route.Route{Dst: prefix("10.9.0.0/16"), Link: "eth0"})
		},
		"one less":              func(r []route.Route) []route.Route { return r[1:] },
		"another next hop":      func(r []route.Route) []route.Route { r[0].Via = ip("192.0.2.9"); return r },
		"another IPv6 next hop": func(r []route.Route) []route.Route { r[8].Via = ip("2001:db8::9"); return r },
		"another MTU":           func(r []route.Route) []route.Route { r[4].MTU = 1300; return r },
		"no MTU any more":       func(r []route.Route) []route.Route { r[10].MTU = 0; return r },
	} {
		want := change(slices.Clone(wanted))
		require.Error(t, table.Check(t.Context(), slices.Values(want)), name)
		heard := changes(t, ns)
		require.NoError(t, table.Reconcile(t.Context(), slices.Values(want)), name)
		require.Equal(t, 1, heard(), name)
		require.NoError(t, table.Check(t.Context(), slices.Values(want)), name)
		require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted)), name)
	}
}

func TestForeignRoutesAreNeverTouchedAndOneInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	ns := router(t)
	nstest.AddRoute(t, ns, "10.1.0.0/16", "192.0.2.7")
	nstest.AddRoute(t, ns, "10.77.0.0/16", "192.0.2.7")
	nstest.AddRoute(t, ns, "2001:db8:1::/48", "2001:db8::7")
	before := nstest.Dump(ns)
	table := route.Table{NS: ns}
	err := table.Reconcile(t.Context(), slices.Values(wanted))
	require.ErrorContains(t, err, "route 10.1.0.0/16 via 192.0.2.2: a foreign route 10.1.0.0/16 via 192.0.2.7")
	require.ErrorContains(t, err, "route 2001:db8:1::/48 via 2001:db8::2")
	require.ErrorContains(t, err, "protocol 3")
	require.Equal(t, len(wanted)-2, theirs(t, ns, 0), "the others are set")
	require.ErrorContains(t, table.Check(t.Context(), slices.Values(wanted)), "stands in the way")
	require.NoError(t, table.Reconcile(t.Context(), slices.Values[[]route.Route](nil)))
	require.Equal(t, before, nstest.Dump(ns))
}

func TestTablesOfDifferentProtocolsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	ns := router(t)
	ours, other := route.Table{NS: ns}, route.Table{NS: ns, Proto: 118}
	a, b := []route.Route{{Dst: prefix("10.1.0.0/16"), Link: "eth0"}}, []route.Route{{Dst: prefix("10.2.0.0/16"), Link: "eth0"}}
	require.NoError(t, ours.Reconcile(t.Context(), slices.Values(a)))
	require.NoError(t, other.Reconcile(t.Context(), slices.Values(b)))
	require.NoError(t, ours.Check(t.Context(), slices.Values(a)))
	require.NoError(t, other.Check(t.Context(), slices.Values(b)))
	require.ErrorContains(t, other.Check(t.Context(), slices.Values(append(b, a...))), "a foreign route")
}

func TestCheckSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	ns := router(t)
	table := route.Table{NS: ns}
	require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted[:2])))
	err := table.Check(t.Context(), slices.Values(wanted[1:3]))
	require.ErrorContains(t, err, "route 10.3.0.0/16 via 2001:db8::2 is missing or different")
	require.ErrorContains(t, err, "route 10.1.0.0/16 via 192.0.2.2")
	require.ErrorContains(t, err, "is there and should not be")
}

func TestAWishThatMakesNoSenseChangesNothing(t *testing.T) {
	t.Parallel()
	ns := router(t)
	require.NoError(t, route.Table{NS: ns}.Reconcile(t.Context(), slices.Values(wanted)))
	before := nstest.Dump(ns)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for says, c := range map[string]struct {
		ctx  context.Context
		want []route.Route
		is   error
	}{
		"the destination is no network; want 10.1.0.0/16":         {want: []route.Route{{Dst: prefix("10.1.2.3/16"), Link: "eth0"}}},
		"the destination is no network":                           {want: []route.Route{{Link: "eth0"}}},
		"route to 10.1.0.0/16: find link nowhere: no such device": {want: []route.Route{{Dst: prefix("10.1.0.0/16"), Link: "nowhere"}}, is: fs.ErrNotExist},
		"the source address 192.0.2.1 is of the other family":     {want: []route.Route{{Dst: prefix("2001:db8:9::/48"), Src: ip("192.0.2.1"), Link: "eth0"}}},
		"the next hop 192.0.2.2 is IPv4; want an IPv6 one":        {want: []route.Route{{Dst: prefix("2001:db8:9::/48"), Via: ip("192.0.2.2")}}},
		"MTU 65521: want at most 65520 bytes":                     {want: []route.Route{{Dst: prefix("10.1.0.0/16"), Link: "eth0", MTU: 65521}}},
		"AdvMSS 65496: want at most 65495 bytes":                  {want: []route.Route{{Dst: prefix("10.1.0.0/16"), Link: "eth0", AdvMSS: 65496}}},
		"is wanted twice":                                         {want: append(slices.Clone(wanted), wanted[0])},
		"context canceled":                                        {ctx: cancelled, want: wanted[:1], is: context.Canceled},
	} {
		if c.ctx == nil {
			c.ctx = t.Context()
		}
		err := route.Table{NS: ns}.Reconcile(c.ctx, slices.Values(c.want))
		require.ErrorContains(t, err, says)
		if c.is != nil {
			require.ErrorIs(t, err, c.is)
		}
		require.Equal(t, before, nstest.Dump(ns), says)
	}
}

func TestTheLargestMetricsOfARouteAreKeptAsTheyAre(t *testing.T) {
	t.Parallel()
	ns := router(t)
	table := route.Table{NS: ns}
	want := []route.Route{{Dst: prefix("10.1.0.0/16"), Link: "eth0", MTU: 65520, AdvMSS: 65495},
		{Dst: prefix("2001:db8:9::/48"), Link: "eth0", MTU: 65520, AdvMSS: 65495}}
	require.NoError(t, table.Reconcile(t.Context(), slices.Values(want)))
	require.NoError(t, table.Check(t.Context(), slices.Values(want)))
}

func TestATableOfWhichNothingIsSaidKeepsItsRoutes(t *testing.T) {
	t.Parallel()
	ns := router(t)
	table := route.Table{NS: ns}
	require.NoError(t, table.Reconcile(t.Context(), slices.Values(wanted)))
	before := nstest.Dump(ns)
	require.ErrorContains(t, table.Reconcile(t.Context(), nil), "want a sequence, which may be empty")
	require.ErrorContains(t, table.Check(t.Context(), nil), "want a sequence, which may be empty")
	require.Equal(t, before, nstest.Dump(ns))
}

func TestARouteThatTheKernelRefusesIsNamedAndTheOthersAreSet(t *testing.T) {
	t.Parallel()
	ns := router(t)
	bad := append(slices.Clone(wanted), route.Route{Dst: prefix("10.66.0.0/16"), Via: ip("203.0.113.1")})
	err := route.Table{NS: ns}.Reconcile(t.Context(), slices.Values(bad))
	require.ErrorContains(t, err, "replace route 10.66.0.0/16 via 203.0.113.1")
	require.ErrorIs(t, err, unix.ENETUNREACH)
	require.Equal(t, len(wanted), theirs(t, ns, 0))
}

func TestAThousandRoutesAreSetAndTakenAway(t *testing.T) {
	t.Parallel()
	ns := router(t)
	many := func(yield func(route.Route) bool) {
		for i := range 1000 {
			r := route.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Via: ip("192.0.2.2")}
			if !yield(r) {
				return
			}
		}
	}
	table := route.Table{NS: ns}
	require.NoError(t, table.Reconcile(t.Context(), many))
	require.Equal(t, 1000, theirs(t, ns, 0))
	require.NoError(t, table.Check(t.Context(), many))
	require.NoError(t, table.Reconcile(t.Context(), slices.Values[[]route.Route](nil)))
	require.Zero(t, theirs(t, ns, 0))
}
