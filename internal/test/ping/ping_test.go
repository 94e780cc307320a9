//go:build linux

package ping_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var both = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}

func pair(t *testing.T, mtu int) (a, b *netns.NS) {
	a, b = nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: a, Name: "left", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}, MTU: mtu},
		nstest.End{NS: b, Name: "right", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}, MTU: mtu})
	return a, b
}

func TestAHostThatIsThereAnswersOverBothFamilies(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, 0)
	for _, to := range both {
		require.NoError(t, ping.Echo(t.Context(), a, to, ping.Options{}))
		require.NoError(t, ping.Echo(t.Context(), a, to, ping.Options{Size: 1}))
	}
	require.NoError(t, ping.Echo(t.Context(), a, both[0], ping.Options{From: netip.MustParseAddr("192.0.2.1")}))
	require.NoError(t, ping.Echo(t.Context(), a, both[1], ping.Options{From: netip.MustParseAddr("2001:db8::1")}))
}

func TestALinkLocalAddressAnswersThroughItsZone(t *testing.T) {
	t.Parallel()
	a, b := pair(t, 0)
	nstest.AddAddrs(t, a, "left", "fe80::a/64")
	nstest.AddAddrs(t, b, "right", "fe80::b/64")
	require.NoError(t, ping.Echo(t.Context(), a, netip.MustParseAddr("fe80::b%left"), ping.Options{}))
	require.ErrorIs(t, ping.Echo(t.Context(), a, netip.MustParseAddr("fe80::b%none"), ping.Options{}), unix.ENODEV)
}

func TestAPacketOfTheMTUPassesUnfragmentedAndAByteMoreIsTooLong(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, 1400)
	for _, to := range both {
		fits := ping.Options{NoFrag: true, Size: ping.Payload(1400, to)}
		require.NoError(t, ping.Echo(t.Context(), a, to, fits))
		fits.Size++
		require.ErrorIs(t, ping.Echo(t.Context(), a, to, fits), unix.EMSGSIZE)
		fits.NoFrag = false
		require.NoError(t, ping.Echo(t.Context(), a, to, fits))
	}
}

func TestANarrowHopBehindTheFirstIsReportedAsTooLong(t *testing.T) {
	t.Parallel()
	a, r := pair(t, 1500)
	z := nstest.New(t)
	nstest.Link(t, nstest.End{NS: r, Name: "far", Addrs: []string{"198.51.100.1/24", "2001:db8:1::1/64"}, MTU: 1300},
		nstest.End{NS: z, Name: "end", Addrs: []string{"198.51.100.2/24", "2001:db8:1::2/64"}, MTU: 1300})
	nstest.Forward(t, r)
	nstest.AddRoute(t, a, "default", "192.0.2.2")
	nstest.AddRoute(t, a, "default", "2001:db8::2")
	nstest.AddRoute(t, z, "default", "198.51.100.1")
	nstest.AddRoute(t, z, "default", "2001:db8:1::1")
	for _, s := range []string{"198.51.100.2", "2001:db8:1::2"} {
		to := netip.MustParseAddr(s)
		require.NoError(t, ping.Echo(t.Context(), a, to, ping.Options{NoFrag: true, Size: ping.Payload(1300, to)}))
		require.ErrorIs(t, ping.Echo(t.Context(), a, to, ping.Options{NoFrag: true, Size: ping.Payload(1301, to)}), unix.EMSGSIZE)
	}
}

func TestWithoutARouteTheKernelsErrorComesAtOnce(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, 0)
	require.ErrorIs(t, ping.Echo(t.Context(), a, netip.MustParseAddr("203.0.113.1"), ping.Options{}), unix.ENETUNREACH)
	require.ErrorIs(t, ping.Echo(t.Context(), a, netip.MustParseAddr("2001:db8:ffff::1"), ping.Options{}), unix.ENETUNREACH)
}

func TestSilenceEndsWithTheTimeoutTheDeadlineOrTheContext(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, 0)
	silent := netip.MustParseAddr("192.0.2.77")
	require.ErrorIs(t, ping.Echo(t.Context(), a, silent, ping.Options{Timeout: 50 * time.Millisecond}), os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, ping.Echo(ctx, a, silent, ping.Options{}))
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	require.ErrorIs(t, ping.Echo(ctx, a, silent, ping.Options{}), context.Canceled)
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	a := nstest.New(t)
	require.ErrorContains(t, ping.Echo(t.Context(), a, netip.Addr{}, ping.Options{}), "no address")
	require.ErrorContains(t, ping.Echo(t.Context(), a, both[0], ping.Options{Size: 1 << 20}), "payload of 1048576 bytes")
}
