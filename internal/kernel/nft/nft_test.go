//go:build linux

package nft_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func open(t testing.TB) (*netns.NS, *nft.Conn) {
	t.Helper()
	ns := nstest.New(t)
	c, err := nft.Open(ns)
	require.NoError(t, err)
	return ns, c
}

var table = nft.Table{Family: nft.INet, Name: "t"}

func bytesOf(addr string) string { return string(netip.MustParseAddr(addr).AsSlice()) }

func TestAnIntervalThatHoldsAKeyIsFoundByItsBegin(t *testing.T) {
	t.Parallel()
	_, c := open(t)
	require.NoError(t, c.Update(t.Context(), func(b *nft.Batch) error {
		b.AddTable(table)
		b.AddSet(nft.Set{Table: table, Name: "s", Key: nft.AddrIPv4, Interval: true})
		b.AddElements(table, "s", []nft.Element{
			{Key: bytesOf("10.0.0.2")}, {Key: bytesOf("10.0.0.9"), End: true},
			{Key: bytesOf("10.0.0.9")}, {Key: bytesOf("10.0.0.20"), End: true},
			{Key: bytesOf("255.255.255.0")},
		})
		return nil
	}))
	for key, begin := range map[string]string{
		"10.0.0.1": "", "10.0.0.2": "10.0.0.2", "10.0.0.8": "10.0.0.2", "10.0.0.9": "10.0.0.9", "10.0.0.19": "10.0.0.9",
		"10.0.0.20": "", "255.255.254.255": "", "255.255.255.0": "255.255.255.0", "255.255.255.255": "255.255.255.0",
	} {
		answers, err := c.Query(nft.GetElements(table, "s", nft.Element{Key: bytesOf(key)}))
		require.NoError(t, err)
		if begin == "" {
			require.ErrorIs(t, answers[0].Err, fs.ErrNotExist, key)
			continue
		}
		require.NoError(t, answers[0].Err)
		require.Equal(t, []nft.Element{{Key: bytesOf(begin)}}, answers[0].Elements(), key)
	}
}

func TestManyQuestionsInOneWriteAreEachAnswered(t *testing.T) {
	t.Parallel()
	ns, c := open(t)
	nstest.Run(t, ns, "nft", `add table inet t; add set inet t s { type ipv4_addr; elements = { 10.0.0.1 comment "one", 10.0.0.2 }; };
		add chain inet t c { type filter hook forward priority 7; policy drop; }; add rule inet t c ip saddr @s counter accept comment "r"; add rule inet t c drop`)
	one := nft.Element{Key: bytesOf("10.0.0.1"), Comment: "one"}
	answers, err := c.Query(
		nft.GetChain(table, "nothing"), nft.GetChain(table, "c"), nft.GetSet(table, "s"), nft.GetSet(table, "nothing"),
		nft.GetElements(table, "s", one, nft.Element{Key: bytesOf("10.0.0.2")}), nft.GetElements(table, "s", one, nft.Element{Key: bytesOf("10.0.0.3")}),
		nft.DumpRules(table, "c"))
	require.NoError(t, err)
	require.ErrorIs(t, answers[0].Err, fs.ErrNotExist)
	require.Equal(t, []nft.Chain{{Table: table, Name: "c", Hook: nft.Hook{Type: "filter", Num: nft.Forward, Priority: 7, Policy: nft.Drop}}},
		answers[1].Chains(nft.INet))
	require.Equal(t, []nft.Set{{Table: table, Name: "s", Key: nft.AddrIPv4}}, answers[2].Sets(nft.INet))
	require.ErrorIs(t, answers[3].Err, fs.ErrNotExist)
	require.Equal(t, []nft.Element{one, {Key: bytesOf("10.0.0.2")}}, answers[4].Elements())
	require.ErrorIs(t, answers[5].Err, fs.ErrNotExist)
	rules := answers[6].Rules(nft.INet)
	require.Len(t, rules, 2)
	require.Equal(t, "r", rules[0].Comment)
	require.Equal(t, nft.Exprs{}.Family(nft.IPv4).Source(nft.IPv4).In("s").Counter().Verdict(nft.Accept).String(), rules[0].Exprs.String())
	require.False(t, rules[0].Exprs.Refuses())
	require.True(t, rules[1].Exprs.Refuses())
}

func TestListsOfWhatDoesNotExistAreEmpty(t *testing.T) {
	t.Parallel()
	_, c := open(t)
	rules, err := c.Rules(table, "c")
	require.NoError(t, err)
	require.Empty(t, rules)
	sets, err := c.Sets(table)
	require.NoError(t, err)
	require.Empty(t, sets)
	elements, err := c.Elements(table, "s")
	require.NoError(t, err)
	require.Empty(t, elements)
	_, err = c.Chain(table, "c")
	require.ErrorIs(t, err, fs.ErrNotExist)
	ok, err := c.Supported()
	require.NoError(t, err)
	require.True(t, ok)
}

func TestACommitForAnEarlierGenerationChangesNothing(t *testing.T) {
	t.Parallel()
	ns, c := open(t)
	g, err := c.Generation()
	require.NoError(t, err)
	nstest.Run(t, ns, "nft", "add table ip other")
	var b nft.Batch
	b.AddTable(table)
	require.ErrorIs(t, c.Commit(g, &b), nft.ErrChanged)
	require.NotContains(t, nstest.Run(t, ns, "nft", "list", "tables"), "inet t")
}

func TestUpdateIsPlannedAnewUntilNobodyWroteMeanwhile(t *testing.T) {
	t.Parallel()
	ns, c := open(t)
	plans := 0
	require.NoError(t, c.Update(t.Context(), func(b *nft.Batch) error {
		if plans++; plans < 4 {
			nstest.Run(t, ns, "nft", fmt.Sprintf("add table ip other%d", plans))
		}
		b.AddTable(table)
		return nil
	}))
	require.Equal(t, 4, plans)

	ctx, cancel := context.WithCancel(t.Context())
	err := c.Update(ctx, func(b *nft.Batch) error {
		nstest.Run(t, ns, "nft", "add table ip more; delete table ip more")
		cancel()
		b.DelTable(table)
		return nil
	})
	require.ErrorIs(t, err, nft.ErrChanged)
	require.ErrorIs(t, err, context.Canceled)
	require.Contains(t, nstest.Run(t, ns, "nft", "list", "tables"), "inet t")
}

func TestAFailingTransactionNamesItsCauseAndChangesNothing(t *testing.T) {
	t.Parallel()
	ns, c := open(t)
	var b nft.Batch
	b.AddTable(table)
	b.AddSet(nft.Set{Table: table, Name: "s", Key: nft.IfName})
	b.AddElements(table, "s", []nft.Element{{Key: strings.Repeat("a", 16)}, {Key: strings.Repeat("a", 16)}})
	err := c.Commit(0, &b)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "add 2 elements to set inet t s")

	b = nft.Batch{}
	b.AddTable(table)
	b.AddChain(nft.Chain{Table: table, Name: "c", Hook: nft.Hook{Type: "nosuch", Num: nft.Forward, Policy: nft.Accept}})
	err = c.Commit(0, &b)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "add chain inet t c")
	require.Empty(t, nstest.Run(t, ns, "nft", "list", "ruleset"))
}

func TestThousandsOfElementsAllArrive(t *testing.T) {
	t.Parallel()
	_, c := open(t)
	var want []nft.Element
	a := netip.MustParseAddr("fd00::")
	for range 7000 { // what a socket buffer of a plain user's namespace holds
		a = a.Next()
		want = append(want, nft.Element{Key: string(a.AsSlice())})
	}
	require.NoError(t, c.Update(t.Context(), func(b *nft.Batch) error {
		b.AddTable(table)
		b.AddSet(nft.Set{Table: table, Name: "s", Key: nft.AddrIPv6})
		b.AddElements(table, "s", want)
		return nil
	}))
	got, err := c.Elements(table, "s")
	require.NoError(t, err)
	slices.SortFunc(got, func(a, b nft.Element) int { return strings.Compare(a.Key, b.Key) })
	require.Equal(t, want, got)
}

func TestReadersAndWritersOfOneConnectionDoNotMixTheirAnswers(t *testing.T) {
	t.Parallel()
	_, c := open(t)
	var wg sync.WaitGroup
	errs := make([]error, 32)
	for i := range errs {
		wg.Go(func() {
			own := nft.Table{Family: nft.INet, Name: fmt.Sprintf("t%d", i)}
			errs[i] = c.Update(t.Context(), func(b *nft.Batch) error {
				b.AddTable(own)
				b.AddChain(nft.Chain{Table: own, Name: own.Name})
				b.AppendRule(nft.Rule{Table: own, Chain: own.Name, Exprs: nft.Exprs{}.Counter(), Comment: own.Name})
				return nil
			})
			rules, err := c.Rules(own, own.Name)
			if errs[i] = errors.Join(errs[i], err); len(rules) != 1 || rules[0].Comment != own.Name {
				errs[i] = errors.Join(errs[i], fmt.Errorf("%s: %v", own.Name, rules))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

func TestRulesOfIPTablesAreWrittenAsThatProgramWritesThem(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	a := func(first, last string) [2]netip.Addr {
		return [2]netip.Addr{netip.MustParseAddr(first), netip.MustParseAddr(last)}
	}
	for _, c := range []struct {
		family uint8
		table  string
		args   string
		rule   nft.Compat
	}{
		{nft.IPv4, "filter", "-m iprange --src-range 10.0.0.1-10.0.0.9 -m comment --comment ours -j ACCEPT",
			nft.Compat{Src: a("10.0.0.1", "10.0.0.9"), Comment: "ours", Target: "ACCEPT"}},
		{nft.IPv6, "filter", "-m iprange --dst-range fd00::1-fd00::9 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment ours -j ACCEPT",
			nft.Compat{Dst: a("fd00::1", "fd00::9"), Established: true, Comment: "ours", Target: "ACCEPT"}},
		{nft.IPv4, "filter", "-m comment --comment ours -j OTHER", nft.Compat{Comment: "ours", Target: "OTHER"}},
		{nft.IPv4, "filter", "-j DROP", nft.Compat{Target: "DROP"}},
		{nft.IPv4, "filter", "-m comment --comment none", nft.Compat{Comment: "none"}},
		{nft.IPv4, "nat", "-m iprange --dst-range 224.0.0.0-239.255.255.255 -j RETURN", nft.Compat{Dst: a("224.0.0.0", "239.255.255.255"), Target: "RETURN"}},
		{nft.IPv4, "nat", "-m iprange --src-range 10.0.0.1-10.0.0.1 -j MASQUERADE", nft.Compat{Src: a("10.0.0.1", "10.0.0.1"), Target: "MASQUERADE"}},
		{nft.IPv6, "nat", "-m iprange --src-range fd00::1-fd00::1 -j MASQUERADE", nft.Compat{Src: a("fd00::1", "fd00::1"), Target: "MASQUERADE"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			ns, conn := open(t)
			program := map[uint8]string{nft.IPv4: "iptables-nft", nft.IPv6: "ip6tables-nft"}[c.family]
			base := map[string]string{"filter": "FORWARD", "nat": "POSTROUTING"}[c.table]
			for _, args := range []string{"-N OURS", "-N OTHER", "-A " + base + " -j OURS", "-A OURS " + c.args} {
				nstest.Run(t, ns, append([]string{program, "-t", c.table}, strings.Fields(args)...)...)
			}
			at := nft.Table{Family: c.family, Name: c.table}
			rules, err := conn.Rules(at, "OURS")
			require.NoError(t, err)
			require.Len(t, rules, 1)
			require.Equal(t, c.rule, rules[0].Compat())
			require.Equal(t, rules[0].Exprs.String(), c.rule.Exprs().String())

			before := nstest.Run(t, ns, program, "-t", c.table, "-S")
			require.NoError(t, conn.Update(t.Context(), func(b *nft.Batch) error {
				b.FlushChain(at, "OURS")
				b.AppendRule(nft.Rule{Table: at, Chain: "OURS", Exprs: c.rule.Exprs()})
				return nil
			}))
			require.Equal(t, before, nstest.Run(t, ns, program, "-t", c.table, "-S"))
			nstest.Run(t, ns, append([]string{program, "-t", c.table, "-D", "OURS"}, strings.Fields(c.args)...)...)
		})
	}
}

func TestARuleOfIPTablesWithMoreToItIsSeenAsSuch(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables)
	ns, c := open(t)
	for _, args := range []string{
		"-p tcp -j ACCEPT", "-s 10.0.0.1 -j ACCEPT", "-m conntrack --ctstate NEW -j ACCEPT", "-m iprange ! --src-range 10.0.0.1-10.0.0.2 -j ACCEPT",
	} {
		nstest.Run(t, ns, append([]string{"iptables-nft", "-A", "FORWARD"}, strings.Fields(args)...)...)
	}
	rules, err := c.Rules(nft.Table{Family: nft.IPv4, Name: "filter"}, "FORWARD")
	require.NoError(t, err)
	require.Len(t, rules, 4)
	for _, r := range rules {
		require.True(t, r.Compat().Other, r.Exprs.String())
	}
}

func TestAClosedNamespaceTakesTheSocketAlong(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	ns, err := netns.New()
	require.NoError(t, err)
	c, err := nft.Open(ns)
	require.NoError(t, err)
	same, err := nft.Open(ns)
	require.NoError(t, err)
	require.Same(t, c, same)
	require.NoError(t, ns.Close())
	require.NoError(t, c.Close())
}
