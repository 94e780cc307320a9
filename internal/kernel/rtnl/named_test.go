//go:build linux

package rtnl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestRefusalsAndWordsNameLinksInPlaceOfTheirIndexes(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "left", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: ns, Name: "right"})
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	left, err := c.LinkByName("left")
	require.NoError(t, err)
	for says, msg := range map[string]*rtnl.Msg{
		"add address 192.0.2.1/24 of link left: ":          rtnl.NewAddr(rtnl.Addr{Link: left.Index, Prefix: prefix("192.0.2.1/24")}),
		"change link left: ":                               rtnl.SetLink(rtnl.Set{Index: left.Index, MTU: 1 << 30}),
		"add route 10.9.0.0/16 via 203.0.113.9 dev left: ": rtnl.NewRoute(rtnl.Route{Dst: prefix("10.9.0.0/16"), Via: ip("203.0.113.9"), Link: left.Index}),
		"delete link 4711 (gone): ":                        rtnl.DelLinkIndex(4711),
		"delete neighbour 192.0.2.9 dev left: ":            rtnl.DelNeigh(rtnl.Neigh{Link: left.Index, IP: ip("192.0.2.9")}),
	} {
		require.ErrorContains(t, c.Do(msg), says)
	}
	name := func(i int) string { return map[int]string{3: "eth0"}[i] }
	for in, out := range map[string]string{"": "", "#": "#", "route dev #3 metric 3": "route dev eth0 metric 3", "link #3": "link eth0", "link #4, x": "link 4 (gone), x",
		"a#3": "a#3", "link # 3": "link # 3"} {
		require.Equal(t, out, rtnl.WithNames(in, name))
	}
}
