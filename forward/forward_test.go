//go:build linux

package forward_test

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var (
	pod  = netip.MustParseAddr("10.1.0.2")
	dual = []inet.Range{rng("10.1.0.2", "10.1.0.254"), rng("fd00:1::2", "fd00:1::ffff")}
)

func rng(first, last string) inet.Range {
	return inet.Range{Start: netip.MustParseAddr(first), End: netip.MustParseAddr(last)}
}

func TestNoForwardRuleIsMadeWhereThePolicyAccepts(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	fw := forward.Passage{NS: ns}
	require.NoError(t, fw.Ensure(t.Context(), "pods", dual))
	require.Empty(t, nstest.Ruleset(t, ns))
	nstest.TouchTables(t, ns)
	before := nstest.Firewall(t, ns)
	require.NoError(t, fw.Ensure(t.Context(), "pods", dual))
	require.NoError(t, fw.Check(t.Context(), "pods", dual))
	require.Equal(t, before, nstest.Firewall(t, ns))
}

func TestForwardRulesThatAreFlushedOrDoubledAreMended(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nft", "legacy"} {
		for _, harm := range []string{
			"-F FORWARD", "-F CNIB-FORWARD", "-F " + mark.Chain("pods"), "-A FORWARD -j CNIB-FORWARD",
			"-A CNIB-FORWARD -j " + mark.Chain("pods"), "-D " + mark.Chain("pods") + " 1", "-I " + mark.Chain("pods") + " 1 -j DROP",
		} {
			t.Run(kind+harm, func(t *testing.T) {
				t.Parallel()
				ns := nstest.New(t)
				fw := forward.Passage{NS: ns}
				sources := dual[:1]
				program := "iptables-" + kind
				nstest.Run(t, ns, program, "-w", "-P", "FORWARD", "DROP")
				require.NoError(t, fw.Ensure(t.Context(), "pods", sources))
				before := nstest.Run(t, ns, program, "-w", "-S")
				nstest.Run(t, ns, append([]string{program, "-w"}, strings.Fields(harm)...)...)
				require.Error(t, fw.Check(t.Context(), "pods", sources))
				require.NoError(t, fw.Ensure(t.Context(), "pods", sources))
				require.NoError(t, fw.Check(t.Context(), "pods", sources))
				require.Equal(t, before, nstest.Run(t, ns, program, "-w", "-S"))
			})
		}
	}
}

func TestForwardRangesGrowAndShrinkBesideOtherNetworks(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ns := nstest.New(t)
			fw := forward.Passage{NS: ns}
			nstest.Run(t, ns, "iptables-"+kind, "-w", "-P", "FORWARD", "DROP")
			old, grown := []inet.Range{rng("10.1.0.2", "10.1.0.9")}, []inet.Range{rng("10.1.0.5", "10.1.0.99"), rng("fd00::1", "fd00::2")}
			var wg sync.WaitGroup
			errs := make([]error, 16)
			for i := range errs {
				wg.Go(func() {
					errs[i] = fw.Ensure(t.Context(), []string{"pods", "other"}[i%2], [][]inet.Range{old, grown}[i/2%2])
				})
			}
			wg.Wait()
			for _, err := range errs {
				require.NoError(t, err)
			}
			for _, network := range []string{"pods", "other"} {
				require.NoError(t, fw.Check(t.Context(), network, old))
				require.NoError(t, fw.Check(t.Context(), network, grown))
			}
			require.NoError(t, fw.Retain(t.Context(), "pods", old))
			require.NoError(t, fw.Check(t.Context(), "pods", old))
			require.Error(t, fw.Check(t.Context(), "pods", grown))
			require.NoError(t, fw.Check(t.Context(), "other", grown))
			require.NoError(t, fw.Remove(t.Context(), "pods"))
			require.NoError(t, fw.Check(t.Context(), "other", grown))
			require.NoError(t, fw.Remove(t.Context(), "other"))
			require.NotContains(t, nstest.Run(t, ns, "iptables-"+kind, "-w", "-S"), "CNIB")
		})
	}
}

func TestChainsOfOtherProgramsThatBlockAreNamedAndLeftAlone(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	fw := forward.Passage{NS: ns}
	nstest.Run(t, ns, "nft", `add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; };
		add rule inet firewalld filter_FORWARD ct state established accept; add rule inet firewalld filter_FORWARD counter reject;
		add table ip6 mine; add chain ip6 mine f { type filter hook forward priority 0; policy drop; };
		add table ip open; add chain ip open f { type filter hook forward priority 0; policy accept; }; add rule ip open f ip saddr 10.0.0.1 drop;
		add table inet cniblocks; add chain inet cniblocks forward { type filter hook forward priority 0; policy drop; };`)
	before := nstest.Ruleset(t, ns)
	blocked, err := fw.Blocked(t.Context())
	require.NoError(t, err)
	require.Len(t, blocked, 2)
	require.Contains(t, blocked[0], "chain filter_FORWARD of nftables table inet firewalld")
	require.Contains(t, blocked[0], "refuses everything")
	require.Contains(t, blocked[1], "chain f of nftables table ip6 mine")
	require.Contains(t, blocked[1], "policy drop")
	require.Equal(t, before, nstest.Ruleset(t, ns))
}

func TestForwardRulesOfAPodGoWithItsOwner(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ns := nstest.New(t)
			fw := forward.Passage{NS: ns}
			nstest.TouchTables(t, ns)
			nstest.Run(t, ns, "iptables-"+kind, "-w", "-P", "FORWARD", "DROP")
			before := nstest.Firewall(t, ns)
			one, two, three := forward.Pod{Owner: "c1/eth0", Addr: pod}, forward.Pod{Owner: "c2/eth0", Addr: pod.Next()}, forward.Pod{Owner: "c3/eth0", Addr: pod.Next().Next()}
			for _, p := range []forward.Pod{one, two, three} {
				require.NoError(t, fw.Ensure(t.Context(), "lan", nil, p))
			}
			require.NoError(t, fw.Check(t.Context(), "lan", nil, one, two, three))
			require.NoError(t, fw.Forget(t.Context(), "lan", "c1/eth0"))
			require.NoError(t, fw.Forget(t.Context(), "lan", "c1/eth0"))
			require.ErrorContains(t, fw.Check(t.Context(), "lan", nil, one), "c1/eth0")
			require.NoError(t, fw.Check(t.Context(), "lan", nil, two, three))
			require.NoError(t, fw.Retain(t.Context(), "lan", nil, "c2/eth0"))
			require.Error(t, fw.Check(t.Context(), "lan", nil, three))
			require.NoError(t, fw.Check(t.Context(), "lan", nil, two))
			require.NoError(t, fw.Forget(t.Context(), "lan", "c2/eth0"))
			require.Equal(t, before, nstest.Firewall(t, ns))
		})
	}
}
