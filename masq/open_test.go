//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestOpenPicksNFTablesAndNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables)
	ns := nstest.New(t)
	for name, want := range map[string]string{"": "nftables", "nftables": "nftables", "iptables": "iptables"} {
		b, err := Open(t.Context(), ns, name)
		require.NoError(t, err)
		require.Equal(t, want, b.Name())
		require.NoError(t, Probe(t.Context(), ns, name))
	}
	_, err := Open(t.Context(), ns, "ebtables")
	require.ErrorContains(t, err, `"ebtables"`)
	require.ErrorContains(t, Probe(t.Context(), ns, "ebtables"), `"nftables" or "iptables"`)
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestOpenWithoutANameStaysWithNFTablesWhereIPTablesWasUsed(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	require.NoError(t, iptablesBackend(t, ns, false).Ensure(t.Context(), dual("pods")))
	b, err := Ensure(t.Context(), ns, "", dual("pods"))
	require.NoError(t, err)
	require.Equal(t, "nftables", b.Name())
}

func TestRemoveAllLeavesNothingInAnyBackend(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	require.NoError(t, RemoveAll(t.Context(), ns, "pods"))
	require.Empty(t, nstest.Ruleset(t, ns))

	nstest.TouchTables(t, ns)
	for _, p := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		nstest.Run(t, ns, p, "-w", "-P", "FORWARD", "DROP")
	}
	before := nstest.Firewall(t, ns)
	for _, open := range backends {
		require.NoError(t, open(t, ns).Ensure(t.Context(), dual("pods")))
	}
	require.NoError(t, forward.Passage{NS: ns}.Ensure(t.Context(), "pods", dual("").Sources))
	require.NotEqual(t, before, nstest.Firewall(t, ns))
	require.NoError(t, RemoveAll(t.Context(), ns, "pods"))
	require.Equal(t, before, nstest.Firewall(t, ns))
}

func TestSwitchTakesOldPodsAlongAndLeavesNothingOfTheOtherBackend(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	nstest.TouchTables(t, ns)
	before := nstest.Firewall(t, ns)
	old := dual("pods")
	old.Pods = []Pod{{Owner: "c1/eth0", Addr: netip.MustParseAddr("10.7.0.1")}}
	now := Policy{Network: "pods", Sources: []inet.Range{rng("10.2.0.2", "10.2.0.9")}, Except: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}}
	nftables, iptables, legacy := NFT{ns}, IPTables{NS: ns}, IPTables{NS: ns, old: true}

	require.NoError(t, legacy.Ensure(t.Context(), old))
	for _, to := range []Backend{nftables, iptables, nftables} {
		require.NoError(t, to.Ensure(t.Context(), now))
		require.NoError(t, Switch(t.Context(), ns, to, "pods"))
		require.NoError(t, to.Check(t.Context(), old))
		require.NoError(t, to.Check(t.Context(), now))
		for _, b := range []Backend{nftables, iptables} {
			list, err := b.List(t.Context())
			require.NoError(t, err)
			if b.Name() != to.Name() {
				require.Empty(t, list)
			} else {
				require.Len(t, list, 1)
			}
		}
	}
	require.NoError(t, nftables.Remove(t.Context(), "pods"))
	require.Equal(t, before, nstest.Firewall(t, ns))
}

func TestNetworksThatShareAddressesAndDifferInSNATAreNamed(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func(testing.TB, *netns.NS) Backend) {
		ns := nstest.New(t)
		b := open(t, ns)
		plain := Policy{Network: "plain"}
		ranges := []inet.Range{rng("10.1.0.100", "10.1.0.120")}
		got, err := Conflicts(t.Context(), ns, plain, ranges)
		require.NoError(t, err)
		require.Empty(t, got)

		require.NoError(t, b.Ensure(t.Context(), dual("pods")))
		got, err = Conflicts(t.Context(), ns, dual("pods"), dual("pods").Sources)
		require.NoError(t, err)
		require.Empty(t, got)
		got, err = Conflicts(t.Context(), ns, plain, ranges)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Contains(t, got[0], `networks "plain" and "pods" both have addresses of 10.1.0.100-10.1.0.120, and only "pods" masquerades them`)

		same, other := dual("same"), dual("other")
		other.Except = append(other.Except, netip.MustParsePrefix("192.0.2.0/24"))
		got, err = Conflicts(t.Context(), ns, same, same.Sources)
		require.NoError(t, err)
		require.Empty(t, got)
		got, err = Conflicts(t.Context(), ns, other, other.Sources)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Contains(t, got[0], `networks "other" and "pods"`)
		require.Contains(t, got[0], "except different destinations")

		apart := Policy{Network: "apart"}
		got, err = Conflicts(t.Context(), ns, apart, []inet.Range{rng("10.1.1.0", "10.1.1.9"), rng("fd00:2::", "fd00:2::9")})
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

func TestProcessesThatStartAtOnceMakeEachRuleOnce(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			_, ns := nstest.Named(t)
			var wg sync.WaitGroup
			errs := make([]error, 12)
			for i := range errs {
				wg.Go(func() {
					cmd := exec.Command("/proc/self/exe", ns.Path(), backend, fmt.Sprintf("net%d", i%2))
					cmd.Env = append(os.Environ(), child+"=1")
					if out, err := cmd.CombinedOutput(); err != nil {
						errs[i] = fmt.Errorf("%w: %s", err, out)
					}
				})
			}
			wg.Wait()
			require.NoError(t, errors.Join(errs...))
			b, err := open(ns, backend)
			require.NoError(t, err)
			for _, n := range []string{"net0", "net1"} {
				require.NoError(t, b.Check(t.Context(), dual(n)))
			}
			list, err := b.List(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 2)
		})
	}
}

func TestIPTablesStartsNoProgramWhenAllIsRight(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	b := iptablesBackend(t, ns, false).(IPTables)
	require.NoError(t, b.Ensure(t.Context(), dual("pods")))
	before := generation(t, ns)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // no program starts with this
	require.NoError(t, b.Ensure(ended, dual("pods")))
	require.NoError(t, b.Check(ended, dual("pods")))
	require.Equal(t, before, generation(t, ns))
}

func TestIPTablesRulesThatAreFlushedAreReportedAndPutBack(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	chain := mark.Chain("pods")
	for kind, old := range map[string]bool{"nft": false, "legacy": true} {
		for _, harm := range []string{
			"-F POSTROUTING", "-F CNIB-POSTROUTING", "-F " + chain, "-F", "-D " + chain + " 2", "-A POSTROUTING -j CNIB-POSTROUTING",
			"-A CNIB-POSTROUTING -j " + chain, "-A " + chain + " -j ACCEPT", "-A " + chain + " -p tcp -j MASQUERADE",
		} {
			t.Run(kind+harm, func(t *testing.T) {
				t.Parallel()
				ns := nstest.New(t)
				b := iptablesBackend(t, ns, old)
				program := "iptables-" + kind
				require.NoError(t, b.Ensure(t.Context(), dual("pods")))
				before := nstest.Firewall(t, ns)
				nstest.Run(t, ns, append([]string{program, "-w", "-t", "nat"}, strings.Fields(harm)...)...)
				require.ErrorContains(t, b.Check(t.Context(), dual("pods")), `"pods"`)
				require.NoError(t, b.Ensure(t.Context(), dual("pods")))
				require.NoError(t, b.Check(t.Context(), dual("pods")))
				require.Equal(t, before, nstest.Firewall(t, ns))
			})
		}
	}
}

func TestAFailureThatPassesDoesNotMoveANetworkToAnotherBackend(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.IPTables)
	ns, err := netns.New()
	require.NoError(t, err)
	require.NoError(t, ns.Close())
	b, err := Open(t.Context(), ns, "")
	require.ErrorContains(t, err, "SNAT by nftables")
	require.Nil(t, b)
}
