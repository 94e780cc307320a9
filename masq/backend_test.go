//go:build linux

package masq

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// backends are all ways to masquerade.
var backends = map[string]func(testing.TB, *netns.NS) Backend{
	"nftables":     func(_ testing.TB, ns *netns.NS) Backend { return NFT{ns} },
	"iptables-nft": func(t testing.TB, ns *netns.NS) Backend { return iptablesBackend(t, ns, false) },
	"legacy":       func(t testing.TB, ns *netns.NS) Backend { return iptablesBackend(t, ns, true) },
}

func iptablesBackend(t testing.TB, ns *netns.NS, old bool) Backend {
	t.Helper()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	return IPTables{NS: ns, old: old}
}

func eachBackend(t *testing.T, test func(t *testing.T, open func(testing.TB, *netns.NS) Backend)) {
	t.Parallel()
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

func TestPodsReachTheOutsideByTheAddressOfTheUplink(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		w := newWorld(t)
		require.False(t, w.seenFrom(t, outside4).IsValid())
		require.False(t, w.seenFrom(t, outside6).IsValid())
		require.NoError(t, open(t, w.node).Ensure(t.Context(), dual("pods")))
		require.Equal(t, uplink4, w.seenFrom(t, outside4))
		require.Equal(t, uplink6, w.seenFrom(t, outside6))
	})
}

func TestExceptedDestinationsSeeThePodsAddress(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		w := newWorld(t)
		nstest.AddRoute(t, w.outside, podNet4, uplink4.String())
		nstest.AddRoute(t, w.outside, podNet6, uplink6.String())
		p := dual("pods")
		p.Except = append(p.Except, netip.MustParsePrefix("192.0.2.8/29"))
		b := open(t, w.node)
		require.NoError(t, b.Ensure(t.Context(), p))
		require.Equal(t, pod4, w.seenFrom(t, outside4))
		require.Equal(t, uplink6, w.seenFrom(t, outside6))
		require.NoError(t, b.Retain(t.Context(), dual("pods"), nil))
		require.Equal(t, uplink4, w.seenFrom(t, outside4))
	})
}

func TestASourceOutsideOfTheRangesIsNotMasqueraded(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		w := newWorld(t)
		nstest.AddRoute(t, w.outside, podNet4, uplink4.String())
		nstest.AddRoute(t, w.outside, podNet6, uplink6.String())
		p := dual("pods")
		p.Sources = []inet.Range{rng("10.1.0.3", "10.1.0.254"), rng("fd00:1::2", "fd00:1::2")}
		require.NoError(t, open(t, w.node).Ensure(t.Context(), p))
		require.Equal(t, pod4, w.seenFrom(t, outside4))
		require.Equal(t, uplink6, w.seenFrom(t, outside6))
	})
}

func TestAPodWithoutRangesIsMasqueradedUntilItIsForgotten(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		w := newWorld(t)
		b := open(t, w.node)
		lan := Policy{Network: "lan", Except: dual("").Except}
		one, other := lan, lan
		one.Pods = []Pod{{Owner: "c1/eth0", Addr: pod4}, {Owner: "c1/eth0", Addr: pod6}}
		other.Pods = []Pod{{Owner: "c2/eth0", Addr: netip.MustParseAddr("10.1.0.3")}}
		require.NoError(t, b.Ensure(t.Context(), other))
		require.NoError(t, b.Ensure(t.Context(), one))
		require.NoError(t, b.Check(t.Context(), other))
		require.NoError(t, b.Check(t.Context(), one))
		require.Equal(t, uplink4, w.seenFrom(t, outside4))
		require.Equal(t, uplink6, w.seenFrom(t, outside6))

		require.NoError(t, b.Forget(t.Context(), "lan", "c1/eth0"))
		require.NoError(t, b.Forget(t.Context(), "lan", "c1/eth0"))
		require.False(t, w.seenFrom(t, outside4).IsValid())
		require.ErrorContains(t, b.Check(t.Context(), one), "c1/eth0")
		require.NoError(t, b.Check(t.Context(), other))

		require.NoError(t, b.Retain(t.Context(), lan, []string{"c2/eth0"}))
		require.NoError(t, b.Check(t.Context(), other))
		require.NoError(t, b.Retain(t.Context(), lan, nil))
		require.Error(t, b.Check(t.Context(), other))
	})
}

func TestListReturnsWhatWasEnsured(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		b := open(t, nstest.New(t))
		list, err := b.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
		lan := Policy{Network: "lan", Pods: []Pod{{Owner: "c2/eth0", Addr: netip.MustParseAddr("10.1.0.3")}}, Except: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/7")}}
		require.NoError(t, b.Ensure(t.Context(), dual("pods")))
		require.NoError(t, b.Ensure(t.Context(), lan))
		list, err = b.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, []Policy{dual("pods"), lan}, list)
	})
}

func TestRangesGrowAndShrinkInEveryBackend(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		b := open(t, nstest.New(t))
		old := Policy{Network: "pods", Sources: []inet.Range{rng("10.1.0.2", "10.1.0.254"), rng("fd00:1::2", "fd00:1::9")}, Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
		grown := Policy{Network: "pods", Sources: []inet.Range{rng("10.1.0.200", "10.1.1.9")}, Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/23")}}
		require.NoError(t, b.Ensure(t.Context(), old))
		require.ErrorContains(t, b.Check(t.Context(), grown), "10.1.0.200-10.1.1.9")
		require.NoError(t, b.Ensure(t.Context(), grown))
		require.NoError(t, b.Check(t.Context(), old))
		require.NoError(t, b.Check(t.Context(), grown))
		require.NoError(t, b.Retain(t.Context(), grown, nil))
		require.NoError(t, b.Check(t.Context(), grown))
		list, err := b.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, []Policy{grown}, list)
	})
}

func TestRemoveLeavesTheOtherNetworksAndAtTheEndNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		ns := nstest.New(t)
		b := open(t, ns)
		nstest.TouchTables(t, ns)
		before := nstest.Firewall(t, ns)
		require.NoError(t, b.Ensure(t.Context(), dual("pods")))
		alone := nstest.Firewall(t, ns)
		require.NotEqual(t, before, alone)
		require.NoError(t, b.Ensure(t.Context(), dual("other")))
		require.NoError(t, b.Remove(t.Context(), "other"))
		require.Equal(t, alone, nstest.Firewall(t, ns))
		require.NoError(t, b.Remove(t.Context(), "pods"))
		require.NoError(t, b.Remove(t.Context(), "pods"))
		require.Equal(t, before, nstest.Firewall(t, ns))
	})
}

func TestManyWritersAtOnceNeverLoseOrDoubleARule(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		ns := nstest.New(t)
		const n = 24
		b := open(t, ns)
		policy := func(i int) Policy {
			p := dual(fmt.Sprintf("net%d", i%3))
			at := netip.AddrFrom4([4]byte{10, 2, byte(i), 1})
			p.Sources = append(p.Sources, inet.Range{Start: at, End: at})
			return p
		}
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { errs[i] = b.Ensure(t.Context(), policy(i)) })
		}
		wg.Wait()
		for i := range n {
			require.NoError(t, errs[i])
			require.NoError(t, b.Check(t.Context(), policy(i)))
		}
		list, err := b.List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 3)
	})
}

func TestABadPolicyIsRefusedBeforeAnythingIsChanged(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		ns := nstest.New(t)
		b := open(t, ns)
		a := netip.MustParseAddr
		for want, p := range map[string]Policy{
			"no name":                {},
			"both addresses":         {Network: "n", Sources: []inet.Range{{}}},
			"one family":             {Network: "n", Sources: []inet.Range{{Start: a("10.0.0.1"), End: a("fd00::1")}}},
			"10.0.0.2-10.0.0.1":      {Network: "n", Sources: []inet.Range{{Start: a("10.0.0.2"), End: a("10.0.0.1")}}},
			"neither IPv4 within":    {Network: "n", Sources: []inet.Range{{Start: a("::ffff:10.0.0.1"), End: a("::ffff:10.0.0.2")}}},
			"excepted destination":   {Network: "n", Except: []netip.Prefix{{}}},
			"no owner":               {Network: "n", Pods: []Pod{{Owner: "", Addr: a("10.0.0.1")}}},
			"pod c: range fe80::1%e": {Network: "n", Pods: []Pod{{Owner: "c", Addr: a("fe80::1%e")}}},
		} {
			require.ErrorContains(t, b.Ensure(t.Context(), p), want)
			require.ErrorContains(t, b.Check(t.Context(), p), want)
			require.ErrorContains(t, b.Retain(t.Context(), p, nil), want)
		}
		require.Empty(t, nstest.Ruleset(t, ns))
	})
}
