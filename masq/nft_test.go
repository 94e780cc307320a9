//go:build linux

package masq

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestTheNFTProgramListsWhatNetlinkWrote(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	p := dual("pods")
	p.Except = append(p.Except, netip.MustParsePrefix("172.16.0.0/12"))
	require.NoError(t, NFT{ns}.Ensure(t.Context(), p))
	require.Equal(t, `table inet cniblocks {
	set src4-pods {
		type ipv4_addr
		flags interval
		elements = { 10.1.0.2-10.1.0.254 }
	}

	set except4-pods {
		type ipv4_addr
		flags interval
		elements = { 10.1.0.0/24, 172.16.0.0/12,
			     224.0.0.0/4 }
	}

	set src6-pods {
		type ipv6_addr
		flags interval
		elements = { fd00:1::2-fd00:1::ffff }
	}

	set except6-pods {
		type ipv6_addr
		flags interval
		elements = { fd00:1::/64,
			     ff00::/8 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @src4-pods ip daddr != @except4-pods meta mark & 0x00004000 == 0x00000000 masquerade fully-random comment "cniblocks pods"
		ip6 saddr @src6-pods ip6 daddr != @except6-pods meta mark & 0x00004000 == 0x00000000 masquerade fully-random comment "cniblocks pods"
	}
}
`, nstest.Ruleset(t, ns))
}

// generation counts the transactions of a namespace.
func generation(t testing.TB, ns *netns.NS) uint32 {
	t.Helper()
	c, err := nft.Open(ns)
	require.NoError(t, err)
	g, err := c.Generation()
	require.NoError(t, err)
	return g
}

func TestEnsureWritesNothingWhenAllIsRight(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	require.NoError(t, NFT{ns}.Ensure(t.Context(), dual("pods")))
	before := generation(t, ns)
	for range 5 {
		require.NoError(t, NFT{ns}.Ensure(t.Context(), dual("pods")))
		require.NoError(t, NFT{ns}.Check(t.Context(), dual("pods")))
	}
	require.Equal(t, before, generation(t, ns))
}

func TestARuleThatIsFlushedIsReportedAndPutBack(t *testing.T) {
	t.Parallel()
	for _, harm := range []string{
		"flush ruleset",
		"delete table inet cniblocks",
		"flush chain inet cniblocks postrouting",
		"flush chain inet cniblocks postrouting; delete chain inet cniblocks postrouting",
		"flush set inet cniblocks src4-pods",
		"flush set inet cniblocks except6-pods",
		"delete element inet cniblocks except4-pods { 224.0.0.0/4 }",
		"delete element inet cniblocks src6-pods { fd00:1::2-fd00:1::ffff }; add element inet cniblocks src6-pods { fd00:1::2-fd00:1::fff0, fd00:1::fff2-fd00:1::ffff }",
		"flush chain inet cniblocks postrouting; delete set inet cniblocks src4-pods; add set inet cniblocks src4-pods { type ipv4_addr; }",
		`add rule inet cniblocks postrouting ip saddr @src4-pods ip daddr != @except4-pods meta mark & 0x4000 == 0x0 masquerade fully-random comment "cniblocks pods"`,
		`flush chain inet cniblocks postrouting; add rule inet cniblocks postrouting ip saddr @src4-pods accept`,
	} {
		t.Run(harm, func(t *testing.T) {
			t.Parallel()
			ns := nstest.New(t)
			b := NFT{ns}
			require.NoError(t, b.Ensure(t.Context(), dual("pods")))
			before := nstest.Ruleset(t, ns)
			for cmd := range strings.SplitSeq(harm, "; ") {
				if !strings.Contains(harm, "type ipv4_addr;") {
					nstest.Run(t, ns, "nft", cmd)
				}
			}
			if strings.Contains(harm, "type ipv4_addr;") {
				nstest.Run(t, ns, "nft", harm)
			}
			err := b.Check(t.Context(), dual("pods"))
			require.ErrorContains(t, err, `"pods"`)
			require.NoError(t, b.Ensure(t.Context(), dual("pods")))
			require.NoError(t, b.Check(t.Context(), dual("pods")))
			require.ElementsMatch(t, strings.Split(before, "\n"), strings.Split(nstest.Ruleset(t, ns), "\n"))
		})
	}
}

func TestAFamilyWithoutSourcesIsLeftAlone(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	p := dual("pods")
	p.Sources = p.Sources[:1]
	require.NoError(t, NFT{ns}.Ensure(t.Context(), p))
	require.NotContains(t, nstest.Ruleset(t, ns), "ip6")
	p.Sources = dual("pods").Sources[1:]
	require.NoError(t, NFT{ns}.Retain(t.Context(), p, nil))
	require.NotContains(t, nstest.Ruleset(t, ns), "ip saddr")
	require.NotContains(t, nstest.Ruleset(t, ns), "src4")
	require.NoError(t, NFT{ns}.Check(t.Context(), p))
}

func TestRangesGrowAtOnceAndShrinkOnlyInRetain(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	b := NFT{ns}
	old := Policy{Network: "pods", Sources: []inet.Range{rng("10.1.0.2", "10.1.0.254")}, Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
	touching := Policy{Network: "pods", Sources: []inet.Range{rng("10.1.0.255", "10.1.1.9")}}
	apart := Policy{Network: "pods", Sources: []inet.Range{rng("10.9.0.2", "10.9.0.2"), rng("10.1.0.1", "10.1.0.1")}, Except: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, p := range []Policy{old, touching, apart} {
		require.NoError(t, b.Ensure(t.Context(), p))
		require.NoError(t, b.Check(t.Context(), p))
	}
	for _, p := range []Policy{old, touching, apart} {
		require.NoError(t, b.Check(t.Context(), p))
	}
	require.Contains(t, nstest.Ruleset(t, ns), "elements = { 10.1.0.1-10.1.1.9, 10.9.0.2 }")
	require.Contains(t, nstest.Ruleset(t, ns), "elements = { 10.0.0.0/8, 224.0.0.0/4 }")

	require.NoError(t, b.Retain(t.Context(), apart, nil))
	require.NoError(t, b.Check(t.Context(), apart))
	require.ErrorContains(t, b.Check(t.Context(), old), "10.1.0.2-10.1.0.254")
	require.Contains(t, nstest.Ruleset(t, ns), "elements = { 10.1.0.1, 10.9.0.2 }")
}

func TestThousandsOfRangesAllArrive(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	p := Policy{Network: "pods"}
	at := netip.MustParseAddr("10.0.0.0")
	for range 2500 {
		p.Sources = append(p.Sources, inet.Range{Start: at, End: at})
		at = at.Next().Next()
	}
	require.NoError(t, NFT{ns}.Ensure(t.Context(), p))
	require.NoError(t, NFT{ns}.Check(t.Context(), p))
	list, err := NFT{ns}.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, p.Sources, list[0].Sources)
	require.NoError(t, NFT{ns}.Remove(t.Context(), "pods"))
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestRemoveOfTheLastNetworkLeavesNothing(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	b := NFT{ns}
	require.NoError(t, b.Remove(t.Context(), "pods"))
	require.NoError(t, b.Ensure(t.Context(), dual("pods")))
	alone := nstest.Ruleset(t, ns)
	require.NoError(t, b.Ensure(t.Context(), dual("other")))
	require.NoError(t, b.Remove(t.Context(), "other"))
	require.Equal(t, alone, nstest.Ruleset(t, ns))
	require.NoError(t, b.Remove(t.Context(), "pods"))
	require.NoError(t, b.Remove(t.Context(), "pods"))
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestRemoveTakesRulesAlongThatOthersMadeOfOurSets(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	require.NoError(t, NFT{ns}.Ensure(t.Context(), dual("pods")))
	nstest.Run(t, ns, "nft", "add rule inet cniblocks postrouting ip saddr @src4-pods counter")
	require.NoError(t, NFT{ns}.Remove(t.Context(), "pods"))
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestRemoveLeavesWhatOthersPutIntoTheTable(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	nstest.Run(t, ns, "nft", "add table inet cniblocks; add chain inet cniblocks forward { type filter hook forward priority 0; }; add set inet cniblocks mine { type ipv4_addr; }")
	before := nstest.Ruleset(t, ns)
	require.NoError(t, NFT{ns}.Ensure(t.Context(), dual("pods")))
	require.NoError(t, NFT{ns}.Remove(t.Context(), "pods"))
	require.Equal(t, before, nstest.Ruleset(t, ns))
}

func TestNamesThatAreKeywordsOrNoIdentifiersCanBeListed(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	b := NFT{ns}
	names := []string{"fwd", "gt", "1.2-3_x", strings.Repeat("n", 300), "with \"quotes\" and\nnew lines", "käse"}
	for _, n := range names {
		require.NoError(t, b.Ensure(t.Context(), dual(n)))
		require.NoError(t, b.Check(t.Context(), dual(n)))
	}
	for _, n := range names {
		for _, s := range v6.sets(n).all()[:2] {
			require.Contains(t, nstest.Run(t, ns, "nft", "list", "set", "inet", "cniblocks", s), s)
		}
	}
	list, err := b.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, len(names))
	for _, n := range names {
		require.NoError(t, b.Remove(t.Context(), n))
	}
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestPodsOfADHCPNetworkComeAndGo(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	b := NFT{ns}
	pod := func(owner, addr string) Policy {
		return Policy{Network: "lan", Pods: []Pod{{Owner: owner, Addr: netip.MustParseAddr(addr)}}, Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
	}
	a, c := pod("a/eth0", "10.1.0.7"), pod("c/eth0", "10.1.0.8")
	c.Pods = append(c.Pods, Pod{Owner: "c/eth0", Addr: netip.MustParseAddr("fd00::8")})
	require.NoError(t, b.Ensure(t.Context(), a))
	require.NoError(t, b.Ensure(t.Context(), c))
	require.NoError(t, b.Check(t.Context(), a))
	require.NoError(t, b.Check(t.Context(), c))
	require.Contains(t, nstest.Ruleset(t, ns), `elements = { 10.1.0.7 comment "a/eth0", 10.1.0.8 comment "c/eth0" }`)

	require.NoError(t, b.Forget(t.Context(), "lan", "c/eth0"))
	require.NoError(t, b.Forget(t.Context(), "lan", "c/eth0"))
	require.NoError(t, b.Check(t.Context(), a))
	require.ErrorContains(t, b.Check(t.Context(), c), "10.1.0.8 of c/eth0")

	// The server gave the address of a pod that it thought gone to another one.
	moved := pod("d/eth0", "10.1.0.7")
	require.NoError(t, b.Ensure(t.Context(), moved))
	require.NoError(t, b.Forget(t.Context(), "lan", "a/eth0"))
	require.NoError(t, b.Check(t.Context(), moved))

	require.NoError(t, b.Ensure(t.Context(), c))
	require.NoError(t, b.Retain(t.Context(), Policy{Network: "lan"}, []string{"d/eth0"}))
	require.NoError(t, b.Check(t.Context(), moved))
	require.Error(t, b.Check(t.Context(), c))
	require.NoError(t, b.Retain(t.Context(), Policy{Network: "lan"}, nil))
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestConcurrentEnsureNeverLosesOrDoublesARule(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	const n = 64
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			own, err := netns.Open(nsPath(ns)) // a socket of its own
			if err != nil {
				errs[i] = err
				return
			}
			defer own.Close()
			p := dual(fmt.Sprintf("net%d", i%4))
			at := netip.AddrFrom4([4]byte{10, 2, byte(i), 1})
			p.Sources = append(p.Sources, inet.Range{Start: at, End: at})
			errs[i] = NFT{own}.Ensure(t.Context(), p)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, handles(t, ns), 2*4)
	for i := range n {
		p := dual(fmt.Sprintf("net%d", i%4))
		at := netip.AddrFrom4([4]byte{10, 2, byte(i), 1})
		p.Sources = append(p.Sources, inet.Range{Start: at, End: at})
		require.NoError(t, NFT{ns}.Check(t.Context(), p))
	}
}

func TestEnsureEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, NFT{nstest.New(t)}.Ensure(ctx, dual("pods")), context.Canceled)
}

func TestAForeignChainOfOurNameIsAnErrorWithTheRemedy(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	nstest.Run(t, ns, "nft", "add table inet cniblocks; add chain inet cniblocks postrouting")
	before := nstest.Ruleset(t, ns)
	require.ErrorContains(t, NFT{ns}.Ensure(t.Context(), dual("pods")), "nft delete table inet cniblocks")
	require.ErrorContains(t, NFT{ns}.Check(t.Context(), dual("pods")), "nft delete table inet cniblocks")
	require.Equal(t, before, nstest.Ruleset(t, ns))
}

func TestAskingWhetherTheKernelCanMasqueradeChangesNothing(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	before := generation(t, ns)
	require.NoError(t, NFT{ns}.try())
	require.Empty(t, nstest.Ruleset(t, ns))
	require.Equal(t, before, generation(t, ns))
}

func TestPacketsThatKubeProxyMarkedAreLeftToIt(t *testing.T) {
	t.Parallel()
	for _, f := range []string{"iptables-save -t nat", "ip6tables-save -t nat"} {
		nstest.Need(t, nstest.Feature(strings.TrimSuffix(strings.Fields(f)[0], "-save")))
		ns := nstest.New(t)
		require.NoError(t, IPTables{NS: ns}.Ensure(t.Context(), dual("pods")))
		text := nstest.Run(t, ns, strings.Fields(f)[0], "-t", "nat")
		returned := strings.Index(text, `-m mark --mark 0x4000/0x4000`)
		require.Positive(t, returned, text)
		require.Contains(t, text[returned:], "-j RETURN")
		require.Less(t, returned, strings.Index(text, "-j MASQUERADE --random-fully"), text)
		require.NotContains(t, strings.ReplaceAll(text, "MASQUERADE --random-fully", ""), "MASQUERADE")
	}
}

func TestWhatKeepsOurRulesFromBeingReachedIsReportedAndMended(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	for harm, said := range map[string]string{
		"add table inet cniblocks { flags dormant; }":                       "table inet cniblocks is dormant",
		"chain inet cniblocks postrouting { policy drop; }":                 "the policy of chain postrouting of table inet cniblocks is drop",
		"insert rule inet cniblocks postrouting accept":                     "a rule that is not ours",
		"insert rule inet cniblocks postrouting ip saddr @src4-pods accept": "a rule that is not ours",
	} {
		ns := nstest.New(t)
		p := dual("pods")
		b := NFT{ns}
		require.NoError(t, b.Ensure(t.Context(), p))
		want := nstest.Ruleset(t, ns)
		nstest.Run(t, ns, "nft", harm)
		require.ErrorContains(t, b.Check(t.Context(), p), said, harm)
		require.NoError(t, b.Ensure(t.Context(), p), harm)
		require.NoError(t, b.Check(t.Context(), p), harm)
		require.Equal(t, want, nstest.Ruleset(t, ns), harm)
	}
}
