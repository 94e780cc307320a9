//go:build linux

package route_test

import (
	"encoding/binary"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
)

func TestForwardLetsPacketsThroughOfTheFamiliesThatAreAsked(t *testing.T) {
	t.Parallel()
	a, r, b := nstest.New(t), nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: a, Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}},
		nstest.End{NS: r, Name: "a", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}})
	nstest.Link(t, nstest.End{NS: b, Name: "eth0", Addrs: []string{"198.51.100.2/24", "2001:db8:1::2/64"}},
		nstest.End{NS: r, Name: "b", Addrs: []string{"198.51.100.1/24", "2001:db8:1::1/64"}})
	for ns, gw := range map[*netns.NS][]string{a: {"192.0.2.1", "2001:db8::1"}, b: {"198.51.100.1", "2001:db8:1::1"}} {
		for _, g := range gw {
			nstest.AddRoute(t, ns, "default", g)
		}
	}
	for _, c := range []struct {
		family inet.Family
		to     string
		other  inet.Family
	}{{inet.IPv4, "198.51.100.2", inet.IPv6}, {inet.IPv6, "2001:db8:1::2", inet.IPv4}} {
		err := route.CheckForward(t.Context(), r, c.family)
		require.ErrorIs(t, err, route.ErrNotForwarding)
		require.ErrorContains(t, err, c.family.String())
		require.NoError(t, route.Forward(t.Context(), r, c.family))
		require.NoError(t, route.CheckForward(t.Context(), r, c.family))
		require.NoError(t, nstest.Ping(t.Context(), a, ip(c.to), ping.Options{}))
		if c.other == inet.IPv6 {
			require.ErrorIs(t, route.CheckForward(t.Context(), r, c.other), route.ErrNotForwarding)
		}
	}
	require.NoError(t, route.Forward(t.Context(), r, inet.IPv4, inet.IPv6))
	require.NoError(t, route.Forward(t.Context(), r))
}

func TestManyWhoSwitchForwardingOnAtOnceLeaveNoDeviceBehind(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	for _, name := range []string{"a", "b", "c"} {
		nstest.Link(t, nstest.End{NS: ns, Name: name}, nstest.End{NS: nstest.New(t), Name: name})
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = route.Forward(t.Context(), ns, inet.IPv4, inet.IPv6) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	for _, name := range []string{"a", "b", "c"} {
		for _, family := range []string{"ipv4", "ipv6"} {
			v, err := sysctl.Get(ns, "net/"+family+"/conf/"+name+"/forwarding")
			require.NoError(t, err)
			require.Equal(t, "1", v, "%s of %s", family, name)
		}
	}
}

func TestAnAdvertisedDefaultRouteSurvivesForwarding(t *testing.T) {
	t.Parallel()
	ns, other := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "uplink"}, nstest.End{NS: other, Name: "eth0"})
	nstest.Link(t, nstest.End{NS: ns, Name: "quiet"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	nstest.Settle(t, ns)
	for _, name := range []string{"uplink", "quiet"} {
		nstest.Sysctl(t, ns, "net/ipv6/conf/"+name+"/accept_ra", "1")
	}
	advertise(t, other, "eth0")
	advertised := func() bool {
		routes, err := nstest.Netlink(t, ns).RouteList(nil, unix.AF_INET6)
		require.NoError(t, err)
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_RA && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				return true
			}
		}
		return false
	}
	require.Eventually(t, advertised, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, route.Forward(t.Context(), ns, inet.IPv4, inet.IPv6))
	require.True(t, advertised(), "the route is still there")
	for name, want := range map[string]string{"uplink": "2", "quiet": "1"} {
		v, err := sysctl.Get(ns, "net/ipv6/conf/"+name+"/accept_ra")
		require.NoError(t, err)
		require.Equal(t, want, v, name)
	}
}

// advertise sends a router advertisement to all nodes (RFC 4861, section 4.2).
func advertise(t *testing.T, ns *netns.NS, link string) {
	t.Helper()
	l, err := nstest.Netlink(t, ns).LinkByName(link)
	require.NoError(t, err)
	fd, err := ns.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "icmp6")
	defer f.Close()
	require.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255))
	ra := make([]byte, 16)
	ra[0], ra[4] = 134, 64
	binary.BigEndian.PutUint16(ra[6:], 1800) // seconds that this is a default router
	to := &unix.SockaddrInet6{Addr: ip("ff02::1").As16(), ZoneId: uint32(l.Attrs().Index)}
	require.Eventually(t, func() bool { return unix.Sendto(fd, ra, 0, to) == nil }, 5*time.Second, 20*time.Millisecond)
}
