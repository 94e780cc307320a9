//go:build linux

package rtnl_test

import (
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestATunnelIsMadeAsAskedAndReadBack(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	far4, far6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	for name, want := range map[string]rtnl.Tunnel{
		"vxlan":           rtnl.VXLAN{VNI: 5, Port: 4789, Local: v4},
		"vxlan over IPv6": rtnl.VXLAN{VNI: 5, Port: 8472, Local: v6, GBP: true, Learning: true},
		"vxlan gpe":       rtnl.VXLAN{Port: 4790, GPE: true, External: true},
		"gre":             rtnl.GRE{Local: v4, Remote: far4, Key: 7, Keyed: true, TTL: 64, TOS: 4},
		"gre external":    rtnl.GRE{External: true},
		"gretap":          rtnl.GRE{Tap: true, Local: v4, Remote: far4, TTL: 9},
		"ip6gre":          rtnl.GRE{V6: true, Local: v6, Remote: far6, Key: 0, Keyed: true, TTL: 64},
		"ip6gre external": rtnl.GRE{V6: true, External: true},
		"ip6gretap":       rtnl.GRE{V6: true, Tap: true, Local: v6, Remote: far6, TTL: 64},
		"ipip":            rtnl.IPTunnel{Type: "ipip", Local: v4, TTL: 64, TOS: 1},
		"sit":             rtnl.IPTunnel{Type: "sit", Local: v4, TTL: 64},
		"ip6tnl external": rtnl.IPTunnel{Type: "ip6tnl", External: true},
		"ip6tnl":          rtnl.IPTunnel{Type: "ip6tnl", Local: v6, Remote: far6, TTL: 64},
		"geneve external": rtnl.Geneve{Port: 6081, External: true, InnerIP: true},
		"geneve":          rtnl.Geneve{VNI: 6, Port: 6082, Remote: far4},
		"wireguard":       rtnl.WireGuard{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.Feature(want.Kind()))
			ns := nstest.New(t)
			c, err := rtnl.Open(ns)
			require.NoError(t, err)
			require.NoError(t, c.Do(rtnl.NewTunnel("tunnel", inet.MAC{}, 1400, want), rtnl.NoLinkLocal("tunnel")))
			l, err := c.LinkByName("tunnel")
			require.NoError(t, err)
			require.Equal(t, want, l.Tunnel())
			require.Equal(t, 1400, l.MTU)
			require.False(t, l.Up())
			require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Name: "tunnel", Up: true})))
			addrs, err := c.Addrs(l.Index)
			require.NoError(t, err)
			for _, a := range addrs {
				require.False(t, a.Prefix.Addr().IsLinkLocalUnicast(), a.Prefix)
			}
		})
	}
}

func TestNeighboursAndFDBEntriesAreSetReplacedAndRemoved(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	c, err := rtnl.Open(nstest.New(t))
	require.NoError(t, err)
	require.NoError(t, c.Do(rtnl.NewTunnel("v", inet.MAC{}, 0, rtnl.VXLAN{VNI: 1, Port: 4789}), rtnl.SetLink(rtnl.Set{Name: "v", Up: true})))
	l, err := c.LinkByName("v")
	require.NoError(t, err)
	far := netip.MustParseAddr("192.0.2.2")

	n := rtnl.Neigh{Link: l.Index, IP: netip.MustParseAddr("2001:db8::7"), MAC: inet.MAC{2, 0, 0, 0, 0, 1}, Proto: 117}
	for _, mac := range []inet.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}} {
		n.MAC = mac
		require.NoError(t, c.Do(rtnl.ReplaceNeigh(n)))
		all, err := c.Neighs(l.Index)
		require.NoError(t, err)
		require.Contains(t, all, rtnl.Neigh{Link: l.Index, IP: n.IP, MAC: mac, Proto: 117, State: 0x80})
	}
	require.NoError(t, c.Do(rtnl.DelNeigh(n)))
	require.ErrorIs(t, c.Do(rtnl.DelNeigh(n)), fs.ErrNotExist)

	f := rtnl.FDB{Link: l.Index, MAC: inet.MAC{2, 0, 0, 0, 0, 1}, Dst: far, Port: 99, VNI: 8, Extern: true}
	require.NoError(t, c.Do(rtnl.SetFDB(f)))
	f.Dst = far.Next()
	require.NoError(t, c.Do(rtnl.SetFDB(f)), "replaces the one for the same MAC")
	flood := rtnl.FDB{Link: l.Index, Dst: far, Extern: true}
	second := rtnl.FDB{Link: l.Index, Dst: far.Next(), Extern: true}
	require.NoError(t, c.Do(rtnl.SetFDB(flood), rtnl.SetFDB(second)), "the zero MAC has several")
	all, err := c.FDBs(l.Index)
	require.NoError(t, err)
	require.ElementsMatch(t, []rtnl.FDB{f, flood, second}, all)
	require.NoError(t, c.Do(rtnl.DelFDB(flood)))
	all, err = c.FDBs(l.Index)
	require.NoError(t, err)
	require.ElementsMatch(t, []rtnl.FDB{f, second}, all)
	require.NoError(t, c.Do(rtnl.DelFDB(f)))
	err = c.Do(rtnl.DelFDB(f))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "delete FDB entry 02:00:00:00:00:01 dst 192.0.2.3")
}

func TestRoutesAreFoundAsTheKernelWouldSendAndAsTheyStandInTheTable(t *testing.T) {
	t.Parallel()
	ns, other := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: other, Name: "eth0"})
	nstest.AddRoute(t, ns, "198.51.100.0/24", "192.0.2.9")
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	var to, match, local rtnl.Route
	require.NoError(t, c.Do(
		rtnl.RouteTo(netip.MustParseAddr("198.51.100.7"), func(r rtnl.Route) { to = r }),
		rtnl.MatchRoute(netip.MustParseAddr("198.51.100.7"), func(r rtnl.Route) { match = r }),
		rtnl.RouteTo(netip.MustParseAddr("192.0.2.1"), func(r rtnl.Route) { local = r }),
	))
	require.Equal(t, "198.51.100.7/32", to.Dst.String())
	require.Equal(t, "192.0.2.9", to.Via.String())
	require.Equal(t, "198.51.100.0/24", match.Dst.String())
	require.EqualValues(t, 2, local.Type)
	require.ErrorContains(t, c.Do(rtnl.RouteTo(netip.MustParseAddr("203.0.113.1"), func(rtnl.Route) {})), "find the route to 203.0.113.1: network is unreachable")
	plain, err := c.OnlyDefaultRules()
	require.NoError(t, err)
	require.True(t, plain)
	h := nstest.Netlink(t, ns)
	rule := netlink.NewRule()
	rule.Table, rule.Priority = 100, 50
	require.NoError(t, h.RuleAdd(rule))
	plain, err = c.OnlyDefaultRules()
	require.NoError(t, err)
	require.False(t, plain)
}

func TestADefaultRuleThatWasRemovedCanBeMadeAgainAndARuleThatChoosesIsNotPlain(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	before, err := c.Rules()
	require.NoError(t, err)
	main := rtnl.Rule{Family: unix.AF_INET, Priority: 32766, Table: unix.RT_TABLE_MAIN, Plain: true}
	require.Contains(t, before, main)
	h := nstest.Netlink(t, ns)
	gone := netlink.NewRule()
	gone.Priority, gone.Table, gone.Family = 32766, unix.RT_TABLE_MAIN, unix.AF_INET
	require.NoError(t, h.RuleDel(gone))
	chooses := netlink.NewRule()
	chooses.Priority, chooses.Table, chooses.Family, chooses.SuppressPrefixlen = 100, unix.RT_TABLE_MAIN, unix.AF_INET, 0
	require.NoError(t, h.RuleAdd(chooses))
	rules, err := c.Rules()
	require.NoError(t, err)
	require.NotContains(t, rules, main)
	require.Contains(t, rules, rtnl.Rule{Family: unix.AF_INET, Priority: 100, Table: unix.RT_TABLE_MAIN})
	require.NoError(t, h.RuleDel(chooses))
	require.NoError(t, c.Do(rtnl.AddRule(main)))
	rules, err = c.Rules()
	require.NoError(t, err)
	require.ElementsMatch(t, before, rules)
	require.ErrorIs(t, c.Do(rtnl.AddRule(main)), fs.ErrExist)
}
