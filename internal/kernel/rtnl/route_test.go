//go:build linux

package rtnl_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

// routed is a world with a link that has addresses of both families.
func routed(t *testing.T) (c *rtnl.Conn, other *netlink.Handle, index int) {
	t.Helper()
	ns, c, other := world(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24", "192.0.2.7/24", "2001:db8::1/64"}},
		nstest.End{NS: nstest.New(t), Name: "eth0"})
	l, err := c.LinkByName("eth0")
	require.NoError(t, err)
	return c, other, l.Index
}

func TestRoutesComeBackAsTheyWereAsked(t *testing.T) {
	t.Parallel()
	c, other, eth0 := routed(t)
	routes := map[string]rtnl.Route{
		"through a gateway":      {Dst: prefix("198.51.100.0/24"), Via: ip("192.0.2.9")},
		"on the link":            {Dst: prefix("198.51.101.0/24"), Scope: unix.RT_SCOPE_LINK},
		"default":                {Dst: prefix("0.0.0.0/0"), Via: ip("192.0.2.9")},
		"of a host":              {Dst: prefix("203.0.113.7/32"), Via: ip("192.0.2.9")},
		"everything":             {Dst: prefix("198.51.102.0/24"), Via: ip("192.0.2.9"), Src: ip("192.0.2.7"), Metric: 77, MTU: 1400, AdvMSS: 1300, Table: 4711},
		"a small table":          {Dst: prefix("198.51.103.0/24"), Via: ip("192.0.2.9"), Table: 99},
		"gateway off the link":   {Dst: prefix("198.51.104.0/24"), Via: ip("203.0.113.1"), OnLink: true},
		"IPv4 over IPv6":         {Dst: prefix("198.51.105.0/24"), Via: ip("2001:db8::9")},
		"IPv4 over link-local":   {Dst: prefix("198.51.106.0/24"), Via: ip("fe80::9")},
		"IPv6 through a gateway": {Dst: prefix("2001:db8:1::/48"), Via: ip("2001:db8::9"), Metric: 1024},
		"IPv6 on the link":       {Dst: prefix("2001:db8:2::/48"), Metric: 1024},
		"IPv6 default":           {Dst: prefix("::/0"), Via: ip("fe80::1"), Metric: 1024},
		"IPv6 everything":        {Dst: prefix("2001:db8:3::/48"), Via: ip("2001:db8::9"), Src: ip("2001:db8::1"), Metric: 77, MTU: 1400, AdvMSS: 1300, Table: 4711},
		"IPv6 onlink":            {Dst: prefix("2001:db8:4::/48"), Via: ip("2001:db8:ffff::1"), Metric: 1024, OnLink: true},
		"blackhole":              {Dst: prefix("198.51.107.0/24"), Type: unix.RTN_BLACKHOLE},
	}
	for name, r := range routes {
		r.Proto = 117
		if r.Type == 0 {
			r.Link = eth0
		}
		require.NoError(t, c.Do(rtnl.NewRoute(r)), name)
		require.ErrorIs(t, c.Do(rtnl.NewRoute(r)), fs.ErrExist, name)
		want := r
		if want.Table == 0 {
			want.Table = unix.RT_TABLE_MAIN
		}
		if want.Type == 0 {
			want.Type = unix.RTN_UNICAST
		}
		have, err := c.Routes(rtnl.RouteFilter{Table: want.Table, Proto: 117})
		require.NoError(t, err)
		require.Contains(t, have, want, name)
		theirs(t, other, want)
		require.NoError(t, c.Do(rtnl.DelRoute(r)), name)
		have, err = c.Routes(rtnl.RouteFilter{Proto: 117})
		require.NoError(t, err)
		require.Empty(t, have, name)
	}
}

// theirs compares a route with what another library reads.
func theirs(t *testing.T, other *netlink.Handle, want rtnl.Route) {
	t.Helper()
	family := unix.AF_INET6
	if want.Dst.Addr().Is4() {
		family = unix.AF_INET
	}
	all, err := other.RouteListFiltered(family, &netlink.Route{Table: int(want.Table), Protocol: 117}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	require.NoError(t, err)
	require.Len(t, all, 1, want)
	r := all[0]
	require.Equal(t, want.Dst.String(), r.Dst.String())
	require.Equal(t, want.Link, r.LinkIndex)
	require.EqualValues(t, want.Metric, r.Priority)
	require.EqualValues(t, want.MTU, r.MTU)
	require.EqualValues(t, want.AdvMSS, r.AdvMSS)
	require.EqualValues(t, want.Scope, r.Scope)
	require.EqualValues(t, want.Type, r.Type)
	require.Equal(t, want.OnLink, r.Flags&unix.RTNH_F_ONLINK != 0)
	if want.Src.IsValid() {
		require.Equal(t, want.Src.String(), r.Src.String())
	}
	switch {
	case !want.Via.IsValid():
		require.Nil(t, r.Gw)
	case want.Via.Is4() == want.Dst.Addr().Is4():
		require.Equal(t, want.Via.String(), r.Gw.String())
	default:
		require.Contains(t, fmt.Sprint(r.Via), want.Via.String())
	}
}

func TestReplaceChangesTheRouteInPlace(t *testing.T) {
	t.Parallel()
	c, other, eth0 := routed(t)
	for _, dst := range []string{"198.51.100.0/24", "2001:db8:1::/48"} {
		r := rtnl.Route{Dst: prefix(dst), Link: eth0, Metric: 10, Proto: 117}
		require.NoError(t, c.Do(rtnl.ReplaceRoute(r)))
		r.Via, r.MTU = ip("192.0.2.9"), 1400
		if r.Dst.Addr().Is6() {
			r.Via = ip("2001:db8::9")
		}
		require.NoError(t, c.Do(rtnl.ReplaceRoute(r)))
		r.Table, r.Type = unix.RT_TABLE_MAIN, unix.RTN_UNICAST
		theirs(t, other, r)
		require.NoError(t, c.Do(rtnl.DelRoute(r)))
	}
}

func TestAppendedIPv6RoutesAreHopsOfOneAndAreReportedAsSuch(t *testing.T) {
	t.Parallel()
	c, _, eth0 := routed(t)
	for _, via := range []string{"2001:db8::9", "2001:db8::8"} {
		require.NoError(t, c.Do(rtnl.AppendRoute(rtnl.Route{Dst: prefix("2001:db8:1::/48"), Via: ip(via), Link: eth0, Proto: 117})))
	}
	have, err := c.Routes(rtnl.RouteFilter{Proto: 117})
	require.NoError(t, err)
	require.Len(t, have, 1)
	require.True(t, have[0].Multiple)
}

func TestAListingIsNarrowedByFamilyTableProtocolAndLink(t *testing.T) {
	t.Parallel()
	c, _, eth0 := routed(t)
	br0 := bridgeUp(t, c, "br0")
	for _, r := range []rtnl.Route{
		{Dst: prefix("198.51.100.0/24"), Link: eth0, Proto: 117},
		{Dst: prefix("198.51.101.0/24"), Link: br0, Proto: 117, Table: 99},
		{Dst: prefix("198.51.102.0/24"), Link: br0, Proto: 118},
		{Dst: prefix("2001:db8:1::/48"), Link: eth0, Proto: 117},
	} {
		require.NoError(t, c.Do(rtnl.NewRoute(r)))
	}
	count := func(f rtnl.RouteFilter) int {
		routes, err := c.Routes(f)
		require.NoError(t, err)
		return len(routes)
	}
	require.Equal(t, 3, count(rtnl.RouteFilter{Proto: 117}))
	require.Equal(t, 2, count(rtnl.RouteFilter{Proto: 117, Family: unix.AF_INET}))
	require.Equal(t, 1, count(rtnl.RouteFilter{Proto: 117, Family: unix.AF_INET6}))
	require.Equal(t, 1, count(rtnl.RouteFilter{Proto: 117, Table: 99}))
	require.Equal(t, 1, count(rtnl.RouteFilter{Proto: 117, Link: br0}))
	require.Equal(t, 1, count(rtnl.RouteFilter{Proto: 118}))
	for _, family := range []uint8{0, unix.AF_INET, unix.AF_INET6} {
		require.Zero(t, count(rtnl.RouteFilter{Table: 5000, Family: family}), "a table that nobody made is empty")
	}
}

func TestARouteSpeaksLikeIPRoute(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]rtnl.Route{
		"route 198.51.100.0/24 via 192.0.2.9 dev #3 src 192.0.2.7 metric 77 table 4711": {Dst: prefix("198.51.100.0/24"),
			Via: ip("192.0.2.9"), Link: 3, Src: ip("192.0.2.7"), Metric: 77, Table: 4711},
		"route ::/0 nhid 9": {Dst: prefix("::/0"), NextHop: 9, Table: unix.RT_TABLE_MAIN},
		"route 10.0.0.0/8 encap id 7 dst 192.0.2.9 dev #4": {Dst: prefix("10.0.0.0/8"), Link: 4,
			Encap: rtnl.Encap{ID: 7, Dst: ip("192.0.2.9")}},
	} {
		require.Equal(t, want, r.String())
	}
}

func TestTheWayOutIsTheLinkThatIsUpAndOnlyForWhoeverIsHere(t *testing.T) {
	t.Parallel()
	ns, c, _ := world(t)
	wire := nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}}, nstest.End{NS: wire, Name: "eth0"})
	there, err := rtnl.Open(wire)
	require.NoError(t, err)
	eth0, err := c.LinkByName("eth0")
	require.NoError(t, err)
	way := func(src, dst string) (link int, err error) {
		var from netip.Addr
		if src != "" {
			from = ip(src)
		}
		err = c.Do(rtnl.GetLink("lo", nil), rtnl.WayOut(from, ip(dst), func(l int) { link = l }))
		return link, err
	}
	leads := func(link int, src, dst string) {
		t.Helper()
		l, err := way(src, dst)
		require.NoError(t, err)
		require.Equal(t, link, l)
	}
	for _, f := range [][3]string{{"192.0.2.1", "192.0.2.9", "192.0.2.9/32"}, {"2001:db8::1", "2001:db8::9", "2001:db8::9/128"}} {
		own, peer := f[0], f[1]
		leads(eth0.Index, own, peer)
		leads(eth0.Index, "", peer)
		leads(0, own, own) // no unicast
		for _, typ := range []uint8{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT} {
			r := rtnl.Route{Dst: prefix(f[2]), Type: typ}
			require.NoError(t, c.Do(rtnl.NewRoute(r)))
			_, err := way(own, peer)
			require.Error(t, err, typ)
			require.NoError(t, c.Do(rtnl.DelRoute(r)))
		}
		require.NoError(t, there.Do(rtnl.SetLink(rtnl.Set{Name: "eth0", Down: true})))
		require.Eventually(t, func() bool { l, err := way(own, peer); return l == 0 && err == nil }, 10*time.Second, time.Millisecond, "no carrier")
		require.NoError(t, there.Do(rtnl.SetLink(rtnl.Set{Name: "eth0", Up: true})))
		require.Eventually(t, func() bool { l, err := way(own, peer); return l == eth0.Index && err == nil }, 10*time.Second, time.Millisecond, "carrier")
	}
	_, err = way("192.0.2.2", "192.0.2.9")
	require.Error(t, err, "an address that is not here")
	_, err = way("", "198.51.100.1")
	require.ErrorIs(t, err, unix.ENETUNREACH)
}
