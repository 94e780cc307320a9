//go:build linux

package rtnl_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// listen collects the events of a namespace; the function returns those until nothing came for a while.
func listen(t *testing.T, m *rtnl.Monitor) func() []rtnl.Event {
	t.Helper()
	events := make(chan rtnl.Event, 10_000)
	done := make(chan error, 1)
	go func() {
		for {
			if err := m.Receive(func(e *rtnl.Event) { events <- *e }); err != nil {
				done <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		require.ErrorIs(t, <-done, os.ErrClosed)
	})
	return func() (all []rtnl.Event) {
		for {
			select {
			case e := <-events:
				all = append(all, e)
			case <-time.After(200 * time.Millisecond):
				return all
			}
		}
	}
}

func vxlan(t *testing.T, ns *netns.NS, name string) (*netlink.Handle, netlink.Link) {
	t.Helper()
	h := nstest.Netlink(t, ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	require.NoError(t, h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4789}))
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(l))
	return h, l
}

func TestAMonitorTellsWhatOthersChangeAndNotWhatThisProcessDoes(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	ns := nstest.New(t)
	nstest.Sysctl(t, ns, "net/ipv6/conf/default/disable_ipv6", "1")
	h, l := vxlan(t, ns, "vx")
	index := l.Attrs().Index
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	m, err := rtnl.OpenMonitor(ns, 0)
	require.NoError(t, err)
	require.NoError(t, m.Follow(index))
	next := listen(t, m)

	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	dst := netip.MustParsePrefix("10.244.2.0/24")
	addr := rtnl.Addr{Link: index, Prefix: netip.MustParsePrefix("10.244.1.0/32"), Proto: 117}
	route := rtnl.Route{Dst: dst, Via: netip.MustParseAddr("10.244.2.0"), OnLink: true, Link: index, Proto: 117}
	neigh := rtnl.Neigh{Link: index, IP: netip.MustParseAddr("10.244.2.0"), MAC: inet.MAC(mac), Proto: 117}
	require.NoError(t, c.Do(rtnl.NewAddr(addr), rtnl.NewRoute(route), rtnl.ReplaceNeigh(neigh), rtnl.SetLink(rtnl.Set{Index: index, MTU: 1400})))
	for _, e := range next() {
		require.Equal(t, rtnl.LinkEvent, e.Subject, "this process's own %+v", e) // the kernel names nobody
	}

	require.NoError(t, h.RouteDel(&netlink.Route{Dst: ipNet(dst), LinkIndex: index}))
	require.NoError(t, h.NeighDel(&netlink.Neigh{LinkIndex: index, IP: net.IPv4(10, 244, 2, 0)}))
	fdb := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		IP: net.IPv4(192, 0, 2, 1), HardwareAddr: mac}
	require.NoError(t, h.NeighSet(fdb))
	require.NoError(t, h.RuleAdd(&netlink.Rule{Family: unix.AF_INET, Table: 5, Priority: 100, Mark: 1, SuppressIfgroup: -1, SuppressPrefixlen: -1, Goto: -1, Flow: -1}))
	require.NoError(t, h.AddrDel(l, &netlink.Addr{IPNet: ipNet(addr.Prefix)}))
	require.NoError(t, h.LinkDel(l))
	got := map[rtnl.Subject][]rtnl.Event{}
	for _, e := range next() {
		got[e.Subject] = append(got[e.Subject], e)
	}
	require.Len(t, got[rtnl.RouteEvent], 1)
	require.True(t, got[rtnl.RouteEvent][0].Gone)
	require.Equal(t, dst, got[rtnl.RouteEvent][0].Route.Dst)
	require.NotZero(t, got[rtnl.RouteEvent][0].Port)
	require.NotEmpty(t, got[rtnl.NeighEvent])
	gone := got[rtnl.NeighEvent][len(got[rtnl.NeighEvent])-1]
	require.True(t, gone.Gone)
	require.Equal(t, neigh.IP, gone.Neigh.IP)
	require.NotEmpty(t, got[rtnl.FDBEvent])
	require.Equal(t, netip.MustParseAddr("192.0.2.1"), got[rtnl.FDBEvent][0].FDB.Dst)
	require.Len(t, got[rtnl.RuleEvent], 1)
	require.Equal(t, addr.Prefix, got[rtnl.AddrEvent][0].Addr.Prefix)
	last := got[rtnl.LinkEvent][len(got[rtnl.LinkEvent])-1]
	require.True(t, last.Gone)
	require.Equal(t, "vx", last.Link.Name)
}

func TestAMonitorLeavesOutWhatAddressResolutionMakesOnLinksThatNobodyFollows(t *testing.T) {
	t.Parallel()
	ns, other := nstest.New(t), nstest.New(t)
	for _, n := range []*netns.NS{ns, other} {
		nstest.Sysctl(t, n, "net/ipv6/conf/default/disable_ipv6", "1")
	}
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: other, Name: "eth0", Addrs: []string{"192.0.2.2/24"}})
	nstest.Settle(t, ns)
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	m, err := rtnl.OpenMonitor(ns, 0)
	require.NoError(t, err)
	next := listen(t, m)
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	resolve := func(ip byte) {
		require.NoError(t, h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IPv4(192, 0, 2, ip), HardwareAddr: mac, State: netlink.NUD_REACHABLE}))
	}
	resolve(7)
	require.Empty(t, next())
	require.NoError(t, m.Follow(l.Attrs().Index))
	resolve(8)
	require.NotEmpty(t, next())
}

func TestAMonitorSaysThatAnnouncementsWereLost(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	h := nstest.Netlink(t, ns)
	m, err := rtnl.OpenMonitor(ns, 1) // the kernel's least
	require.NoError(t, err)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	for i := range 200 {
		require.NoError(t, h.RouteReplace(&netlink.Route{Dst: ipNet(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)), LinkIndex: lo.Attrs().Index}))
	}
	var subjects []rtnl.Subject
	for _, e := range listen(t, m)() {
		subjects = append(subjects, e.Subject)
	}
	require.Contains(t, subjects, rtnl.Lost)
	require.Less(t, len(subjects), 200)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func TestAMonitorTellsThatForwardingOfAllOrOfALinkChanged(t *testing.T) {
	t.Parallel()
	ns, other := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0"}, nstest.End{NS: other, Name: "eth0"})
	l, err := nstest.Netlink(t, ns).LinkByName("eth0")
	require.NoError(t, err)
	m, err := rtnl.OpenMonitor(ns, 0)
	require.NoError(t, err)
	next := listen(t, m)
	confs := func() (all []rtnl.Conf) {
		for _, e := range next() {
			if e.Subject == rtnl.ConfEvent {
				all = append(all, e.Conf)
			}
		}
		return all
	}
	index := l.Attrs().Index
	for _, c := range []struct {
		key  string
		want rtnl.Conf
	}{
		{"net/ipv4/ip_forward", rtnl.Conf{Family: unix.AF_INET, Link: rtnl.AllLinks}},
		{"net/ipv4/conf/default/rp_filter", rtnl.Conf{Family: unix.AF_INET, Link: rtnl.DefaultLinks}},
		{"net/ipv4/conf/eth0/proxy_arp", rtnl.Conf{Family: unix.AF_INET, Link: index}},
		{"net/ipv6/conf/all/forwarding", rtnl.Conf{Family: unix.AF_INET6, Link: rtnl.AllLinks}},
		{"net/ipv6/conf/eth0/proxy_ndp", rtnl.Conf{Family: unix.AF_INET6, Link: index}},
	} {
		v, err := sysctl.Get(ns, c.key)
		require.NoError(t, err)
		nstest.Sysctl(t, ns, c.key, map[string]string{"0": "1", "1": "0", "2": "0"}[v])
		require.Contains(t, confs(), c.want, c.key)
	}
	nstest.Sysctl(t, ns, "net/ipv4/conf/eth0/arp_ignore", "1")
	require.Empty(t, confs(), "of others the kernel tells nothing")
}
