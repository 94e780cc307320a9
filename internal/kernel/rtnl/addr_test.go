//go:build linux

package rtnl_test

import (
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

func TestAddressesAreAddedAsAskedAndReadBack(t *testing.T) {
	t.Parallel()
	_, c, other := world(t)
	index := bridgeUp(t, c, "br0")
	want := []rtnl.Addr{
		{Link: index, Prefix: netip.MustParsePrefix("192.0.2.1/24"), Flags: unix.IFA_F_PERMANENT, Proto: 117},
		{Link: index, Prefix: netip.MustParsePrefix("192.0.2.9/32"), Flags: unix.IFA_F_PERMANENT, Scope: unix.RT_SCOPE_LINK, Proto: 117},
		{Link: index, Prefix: netip.MustParsePrefix("2001:db8::1/64"), Flags: unix.IFA_F_NODAD | unix.IFA_F_PERMANENT, Proto: 117},
		{Link: index, Prefix: netip.MustParsePrefix("2001:db8::2/128"), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_PERMANENT, Proto: 117},
	}
	var add, del []*rtnl.Msg
	for _, a := range want {
		add, del = append(add, rtnl.NewAddr(a)), append(del, rtnl.DelAddr(a))
	}
	require.NoError(t, c.Do(add...))
	require.ErrorIs(t, c.Do(add...), fs.ErrExist)

	have, err := c.Addrs(index)
	require.NoError(t, err)
	for _, w := range want {
		require.Contains(t, have, w)
	}
	l, err := other.LinkByName("br0")
	require.NoError(t, err)
	theirs, err := other.AddrList(l, unix.AF_UNSPEC)
	require.NoError(t, err)
	seen := map[string]int{}
	for _, a := range theirs {
		require.Nil(t, a.Broadcast)
		seen[a.IPNet.String()] = a.Flags
	}
	for _, w := range want {
		require.Equal(t, int(w.Flags), seen[w.Prefix.String()], w.Prefix)
	}
	require.NoError(t, c.Do(del...))
	have, err = c.Addrs(index)
	require.NoError(t, err)
	for _, a := range have {
		require.True(t, a.Prefix.Addr().IsLinkLocalUnicast(), a.Prefix)
	}
}

func TestAddressesAreListedOfOneLinkOrOfAll(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	a, b := bridgeUp(t, c, "a"), bridgeUp(t, c, "b")
	require.NoError(t, c.Do(
		rtnl.NewAddr(rtnl.Addr{Link: a, Prefix: netip.MustParsePrefix("192.0.2.1/24")}),
		rtnl.NewAddr(rtnl.Addr{Link: b, Prefix: netip.MustParsePrefix("192.0.2.129/25")})))
	on := func(link int) (found []string) {
		addrs, err := c.Addrs(link)
		require.NoError(t, err)
		for _, x := range addrs {
			if x.Prefix.Addr().Is4() {
				found = append(found, x.Prefix.String())
			}
		}
		return found
	}
	require.Equal(t, []string{"192.0.2.1/24"}, on(a))
	require.Equal(t, []string{"192.0.2.129/25"}, on(b))
	require.ElementsMatch(t, []string{"127.0.0.1/8", "192.0.2.1/24", "192.0.2.129/25"}, on(0))
	_, err := c.Addrs(99999)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
