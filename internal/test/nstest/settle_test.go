//go:build linux

package nstest_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestANamespaceSettlesWhenItsAddressesAreInUse(t *testing.T) {
	t.Parallel()
	a, b := nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: a, Name: "a"}, nstest.End{NS: b, Name: "b"})
	nstest.Sysctl(t, a, "net/ipv6/conf/a/accept_dad", "1")
	h := nstest.Netlink(t, a)
	l, err := h.LinkByName("a")
	require.NoError(t, err)
	addr, err := netlink.ParseAddr("2001:db8::1/64")
	require.NoError(t, err)
	require.NoError(t, h.AddrAdd(l, addr)) // detection of duplicates takes a second, in which no dump changes
	nstest.Settle(t, a)
	addrs, err := h.AddrList(l, netlink.FAMILY_V6)
	require.NoError(t, err)
	require.Len(t, addrs, 2)
	for _, a := range addrs {
		require.Zero(t, a.Flags&unix.IFA_F_TENTATIVE, "%v", a)
	}
}
