//go:build linux

package route_test

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
)

// added adds routes over eth0 of ns, all in one call.
func added(t *testing.T, ns *netns.NS, routes ...route.Route) error {
	t.Helper()
	l, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	var adds []link.Change
	for _, r := range routes {
		adds = append(adds, route.Add(l.Index, r))
	}
	return link.Apply(t.Context(), ns, adds...)
}

func TestRoutesOverALinkAreAddedInOneCall(t *testing.T) {
	t.Parallel()
	ns := router(t)
	want := []route.Route{
		{Dst: prefix("198.51.100.0/24"), Via: ip("192.0.2.2")}, {Dst: prefix("169.254.1.1/32")},
		{Dst: prefix("0.0.0.0/0"), Via: ip("169.254.1.1"), OnLink: true, MTU: 1400},
		{Dst: prefix("2001:db8:1::/48"), Via: ip("2001:db8::2")}, {Dst: prefix("::/0"), Via: ip("fe80::9")},
		{Dst: prefix("203.0.113.0/24"), Via: ip("192.0.2.2"), Table: 99, Metric: 7},
	}
	require.ErrorIs(t, route.CheckLink(t.Context(), ns, "eth0", want...), fs.ErrNotExist)
	require.NoError(t, added(t, ns, want...))
	require.NoError(t, route.CheckLink(t.Context(), ns, "eth0", want...))
	require.ErrorIs(t, added(t, ns, want...), fs.ErrExist, "again")
	require.NoError(t, route.CheckLink(t.Context(), ns, "eth0", want...))
	require.Zero(t, theirs(t, ns, 0), "they are no part of a Table")
	require.NoError(t, nstest.Ping(t.Context(), ns, ip("192.0.2.2"), ping.Options{}))
}

func TestCheckLinkAcceptsWhatChainedProgramsDo(t *testing.T) {
	t.Parallel()
	ns := router(t)
	want := route.Route{Dst: prefix("198.51.100.0/24"), Via: ip("192.0.2.2")}
	moved := want
	moved.Table, moved.Metric, moved.MTU = 99, 5, 1300
	require.NoError(t, added(t, ns, moved))
	require.NoError(t, route.CheckLink(t.Context(), ns, "eth0", want), "another table, metric and MTU")
	require.NoError(t, route.CheckLink(t.Context(), ns, "eth0", route.Route{Dst: want.Dst}), "no next hop asked for")
	other := want
	other.Via = ip("192.0.2.3")
	err := route.CheckLink(t.Context(), ns, "eth0", other)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "the route to 198.51.100.0/24 via 192.0.2.3 on eth0 is missing")
	require.ErrorIs(t, route.CheckLink(t.Context(), ns, "lo", want), fs.ErrNotExist, "another device")
	require.ErrorIs(t, route.CheckLink(t.Context(), ns, "nowhere", want), fs.ErrNotExist)
}

func TestAMalformedRouteKeepsTheOthersFromBeingAdded(t *testing.T) {
	t.Parallel()
	ns := router(t)
	before := nstest.Dump(ns)
	good := route.Route{Dst: prefix("198.51.100.0/24"), Via: ip("192.0.2.2")}
	require.ErrorContains(t, added(t, ns, good, route.Route{Dst: prefix("10.1.2.3/8")}), "want 10.0.0.0/8")
	require.ErrorContains(t, added(t, ns, good, route.Route{}), "is no network; want one such as")
	require.ErrorIs(t, added(t, ns, route.Route{Dst: good.Dst, Via: ip("203.0.113.9")}), unix.ENETUNREACH)
	require.Equal(t, before, nstest.Dump(ns))
}
