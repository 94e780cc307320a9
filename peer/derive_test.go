package peer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// The values were made with printf(1) and sha256sum(1).
func TestADerivedMACIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		network, node string
		family        inet.Family
		want          string
	}{
		{"pods", "a", inet.IPv4, "92:49:0c:31:1c:d7"},
		{"pods", "a", inet.IPv6, "ee:12:53:1e:9c:13"},
		{"pods", "b", inet.IPv4, "fa:bb:4f:76:ce:f2"},
		{"", "", inet.IPv4, "c2:98:7e:85:6b:04"},
	} {
		require.Equal(t, c.want, peer.DeriveMAC(c.network, c.node, c.family).String())
	}
}

func TestDerivedMACsAreUnicastLocalAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[inet.MAC]string{}
	for _, network := range []string{"pods", "pod", "s", ""} {
		for i := range 2000 {
			for _, f := range inet.Families {
				who := fmt.Sprintf("%q %d %s", network, i, f)
				m := peer.DeriveMAC(network, fmt.Sprint(i), f)
				require.EqualValues(t, 2, m[0]&3, who)
				require.Empty(t, seen[m], who)
				seen[m] = who
			}
		}
	}
	require.NotEqual(t, peer.DeriveMAC("ab", "c", inet.IPv4), peer.DeriveMAC("a", "bc", inet.IPv4))
}

func TestADerivedVNIIsTheSameEverywhereAndNeverZero(t *testing.T) {
	t.Parallel()
	for network, want := range map[string]uint32{"pods": 10233987, "other": 2722538, "": 11584806} {
		require.Equal(t, want, peer.DeriveVNI(network), network)
	}
	least, most := uint32(math.MaxUint32), uint32(0)
	for i := range 20_000 {
		v := peer.DeriveVNI(fmt.Sprint(i))
		least, most = min(least, v), max(most, v)
	}
	require.NotZero(t, least)
	require.LessOrEqual(t, most, uint32(peer.MaxVNI))
	require.Greater(t, most-least, uint32(peer.MaxVNI/2), "spread over the whole of it")
}

func TestTheNodeAddressOfARange(t *testing.T) {
	t.Parallel()
	for r, want := range map[string]string{
		"10.244.1.0/24":        "10.244.1.0",
		"10.244.1.7/24":        "10.244.1.0", // whatever its host bits
		"10.244.1.0/31":        "10.244.1.0",
		"10.244.1.9/32":        "10.244.1.9",
		"fd00:10:244:1::/64":   "fd00:10:244:1:ffff:ffff:ffff:ffff",
		"fd00:10:244:1::5/64":  "fd00:10:244:1:ffff:ffff:ffff:ffff",
		"fd00:10:244::/61":     "fd00:10:244:7:ffff:ffff:ffff:ffff",
		"fd00::/120":           "fd00::ff",
		"fd00::/127":           "fd00::1",
		"fd00::5/128":          "fd00::5",
		"fd00:10:244:1::/63":   "fd00:10:244:1:ffff:ffff:ffff:ffff",
		"2001:db8:8000::/33":   "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
		"fdff:ffff:ffff::1/49": "fdff:ffff:ffff:7fff:ffff:ffff:ffff:ffff",
	} {
		require.Equal(t, want, peer.NodeAddr(netip.MustParsePrefix(r)).String(), r)
	}
	require.Zero(t, peer.NodeAddr(netip.Prefix{}))
}

func TestTheNodeAddressLiesInItsRangeAndIsNotTheGateways(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var b [16]byte
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		six := netip.PrefixFrom(netip.AddrFrom16(b), rng.IntN(129))
		four := netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), rng.IntN(33))
		for _, r := range []netip.Prefix{four, six} {
			a := peer.NodeAddr(r)
			require.True(t, r.Contains(a), "%s of %s", a, r)
			if r.Addr().BitLen()-r.Bits() > 1 {
				require.NotEqual(t, r.Masked().Addr().Next(), a, "%s of %s", a, r)
			}
		}
	}
}

func TestANodeHasAnAddressInItsFirstRangeOfEachFamily(t *testing.T) {
	t.Parallel()
	p := peer.Peer{Pods: prefixes("fd00::/64", "10.1.0.0/24", "fd01::/64", "10.0.0.0/24")}
	require.Equal(t, []netip.Addr{addr("10.1.0.0"), addr("fd00::ffff:ffff:ffff:ffff")}, p.NodeAddrs())
	require.Equal(t, []netip.Addr{addr("10.1.0.0")}, peer.Peer{Pods: prefixes("10.1.0.0/24")}.NodeAddrs())
	require.Empty(t, peer.Peer{}.NodeAddrs())
}
