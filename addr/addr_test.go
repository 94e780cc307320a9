//go:build linux

package addr_test

import (
	"context"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// linked is a namespace with a link eth0 to another one that has the addresses of both families.
func linked(t *testing.T) (ns *netns.NS) {
	t.Helper()
	ns = nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0"},
		nstest.End{NS: nstest.New(t), Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	return ns
}

// added adds prefixes to eth0 of ns, all in one call.
func added(t *testing.T, ns *netns.NS, prefixes ...netip.Prefix) error {
	t.Helper()
	l, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	var changes []link.Change
	for _, p := range prefixes {
		changes = append(changes, addr.Add(l.Index, p))
	}
	return link.Apply(t.Context(), ns, changes...)
}

func TestWhatIsAddedStandsBesideTheRest(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	nstest.AddAddrs(t, ns, "eth0", "198.51.100.1/24")
	want := prefixes("192.0.2.1/24", "192.0.2.77/32", "2001:db8::1/64")
	require.Error(t, addr.Check(t.Context(), ns, "eth0", want...))
	require.NoError(t, added(t, ns, want...))
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	require.ErrorIs(t, added(t, ns, want...), fs.ErrExist)
	require.Equal(t, before, nstest.Dump(ns))
	all := append(want, prefixes("198.51.100.1/24")...)
	require.NoError(t, addr.Check(t.Context(), ns, "eth0", all...))
	list, err := addr.List(t.Context(), ns, "eth0")
	require.NoError(t, err)
	require.Subset(t, list, all)
}

func TestAnIPv6AddressIsUsableAtOnce(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, added(t, ns, prefixes("2001:db8::1/64")...))
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	list, err := h.AddrList(l, unix.AF_INET6)
	require.NoError(t, err)
	for _, a := range list {
		if a.IP.IsGlobalUnicast() {
			require.Zero(t, a.Flags&unix.IFA_F_TENTATIVE, a.IPNet)
			require.EqualValues(t, link.Proto, a.Protocol)
		}
	}
	require.NoError(t, nstest.Ping(t.Context(), ns, netip.MustParseAddr("2001:db8::2"), ping.Options{From: netip.MustParseAddr("2001:db8::1")}))
}

func TestAnAddressThatAnotherStationHasIsFoundWhereItIsLookedFor(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv6/conf/eth0/accept_dad", Value: "1"}))
	l, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	require.NoError(t, link.Apply(t.Context(), ns, addr.AddDetected(l.Index, netip.MustParsePrefix("2001:db8::9/64"))))
	require.NoError(t, addr.Settle(t.Context(), ns, l.Index))
	require.NoError(t, link.Apply(t.Context(), ns, addr.AddDetected(l.Index, netip.MustParsePrefix("2001:db8::2/64"))))
	err = addr.Settle(t.Context(), ns, l.Index)
	require.ErrorIs(t, err, addr.ErrDuplicate)
	require.ErrorContains(t, err, "2001:db8::2")
}

func TestCheckNamesTheAddressThatIsMissing(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, added(t, ns, prefixes("192.0.2.1/24")...))
	err := addr.Check(t.Context(), ns, "eth0", prefixes("192.0.2.1/24", "192.0.2.1/25")...)
	require.ErrorContains(t, err, "address 192.0.2.1/25 is missing on eth0, which has [192.0.2.1/24")
	require.NoError(t, addr.Check(t.Context(), ns, "eth0"))
}

func TestALinkThatIsNotThereIsErrNotExist(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	require.ErrorIs(t, addr.Check(t.Context(), ns, "nowhere", prefixes("192.0.2.1/24")...), fs.ErrNotExist)
	_, err := addr.List(t.Context(), ns, "nowhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, link.Apply(t.Context(), ns, addr.Add(4711, netip.MustParsePrefix("192.0.2.1/24"))), fs.ErrNotExist)
}

func TestAnIPv6AddressOfAnotherLengthStandsInTheWay(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, added(t, ns, prefixes("2001:db8::1/64")...))
	err := added(t, ns, prefixes("2001:db8::1/128", "192.0.2.1/24")...)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "2001:db8::1/128")
	require.NoError(t, addr.Check(t.Context(), ns, "eth0", prefixes("2001:db8::1/64", "192.0.2.1/24")...), "the others are there")
}

func TestNothingIsChangedForABadPrefixOrAContextThatEnded(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:192.0.2.1/120")} {
		require.ErrorContains(t, added(t, ns, netip.MustParsePrefix("192.0.2.1/24"), bad), "want an address with a prefix length")
		require.ErrorContains(t, addr.Check(t.Context(), ns, "eth0", bad), "want an address with a prefix length")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, link.Apply(ctx, ns, addr.Add(1, netip.MustParsePrefix("192.0.2.1/24"))), context.Canceled)
	require.Equal(t, before, nstest.Dump(ns))
}
