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
	"github.com/cniblocks/cniblocks/internal/nstest"
	"github.com/cniblocks/cniblocks/internal/ping"
	"github.com/cniblocks/cniblocks/netns"
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

func TestEnsureAddsWhatIsMissingAndLeavesTheRest(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	nstest.AddAddrs(t, ns, "eth0", "198.51.100.1/24")
	want := prefixes("192.0.2.1/24", "192.0.2.77/32", "2001:db8::1/64")
	require.Error(t, addr.Check(t.Context(), ns, "eth0", want...))
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", want...))
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", want...), "again")
	require.Equal(t, before, nstest.Dump(ns))
	require.NoError(t, addr.Check(t.Context(), ns, "eth0", append(want, prefixes("198.51.100.1/24")...)...))

	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	list, err := h.AddrList(l, unix.AF_UNSPEC)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, a := range list {
		seen[a.IPNet.String()] = true
	}
	for _, w := range append(want, prefixes("198.51.100.1/24")...) {
		require.True(t, seen[w.String()], w)
	}
}

func TestAnIPv6AddressIsUsableAtOnce(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", prefixes("2001:db8::1/64")...))
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	list, err := h.AddrList(l, unix.AF_INET6)
	require.NoError(t, err)
	for _, a := range list {
		if a.IP.IsGlobalUnicast() {
			require.Zero(t, a.Flags&unix.IFA_F_TENTATIVE, a.IPNet)
		}
	}
	require.NoError(t, nstest.Ping(t.Context(), ns, netip.MustParseAddr("2001:db8::2"), ping.Options{From: netip.MustParseAddr("2001:db8::1")}))
}

func TestRemoveTakesOffWhatIsThere(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	want := prefixes("192.0.2.1/24", "2001:db8::1/64")
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", want...))
	require.NoError(t, addr.Remove(t.Context(), ns, "eth0", append(want, prefixes("203.0.113.1/24")...)...))
	require.Equal(t, before, nstest.Dump(ns))
	require.NoError(t, addr.Remove(t.Context(), ns, "eth0", want...))
	require.NoError(t, addr.Remove(t.Context(), ns, "nowhere", want...))
}

func TestCheckNamesTheAddressThatIsMissing(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", prefixes("192.0.2.1/24")...))
	err := addr.Check(t.Context(), ns, "eth0", prefixes("192.0.2.1/24", "192.0.2.1/25")...)
	require.ErrorContains(t, err, "address 192.0.2.1/25 is missing on eth0, which has [192.0.2.1/24")
	require.NoError(t, addr.Check(t.Context(), ns, "eth0"))
}

func TestALinkThatIsNotThereIsErrNotExist(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	require.ErrorIs(t, addr.Ensure(t.Context(), ns, "nowhere", prefixes("192.0.2.1/24")...), fs.ErrNotExist)
	require.ErrorIs(t, addr.Check(t.Context(), ns, "nowhere", prefixes("192.0.2.1/24")...), fs.ErrNotExist)
}

func TestAnIPv6AddressOfAnotherLengthStandsInTheWay(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0", prefixes("2001:db8::1/64")...))
	err := addr.Ensure(t.Context(), ns, "eth0", prefixes("2001:db8::1/128", "192.0.2.1/24")...)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "2001:db8::1/128 is missing on eth0, which has")
	require.NoError(t, addr.Check(t.Context(), ns, "eth0", prefixes("2001:db8::1/64", "192.0.2.1/24")...), "the others are there")
}

func TestNothingIsChangedForABadPrefixOrAContextThatEnded(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	require.ErrorContains(t, addr.Ensure(t.Context(), ns, "eth0", netip.MustParsePrefix("192.0.2.1/24"), netip.Prefix{}), "want an address with a prefix length")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, addr.Ensure(ctx, ns, "eth0", prefixes("192.0.2.1/24")...), context.Canceled)
	require.NoError(t, addr.Ensure(t.Context(), ns, "eth0"))
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:192.0.2.1/120")} {
		for name, f := range map[string]func(context.Context, *netns.NS, string, ...netip.Prefix) error{"Ensure": addr.Ensure, "Check": addr.Check, "Remove": addr.Remove} {
			require.ErrorContains(t, f(t.Context(), ns, "eth0", bad), "want an address with a prefix length", "%s of %s", name, bad)
		}
	}
	require.Equal(t, before, nstest.Dump(ns))
}
