//go:build linux

package chains_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var layout = chains.Layout{Table: "filter", Base: "FORWARD", Trunk: "CNIB-TEST", First: true}

// stores are those of a namespace with rules of another program, and what the program says of each.
func stores(t *testing.T) map[string]func(ns *netns.NS, f xtables.Family) chains.Store {
	t.Helper()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	return map[string]func(ns *netns.NS, f xtables.Family) chains.Store{
		"nft": layout.NFT,
		"legacy": func(ns *netns.NS, f xtables.Family) chains.Store {
			p, err := xtables.FindLegacy(t.Context(), f)
			require.NoError(t, err)
			return layout.By(ns, p)
		},
	}
}

func iptables(t *testing.T, ns *netns.NS, program, args string) (out string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		b, err := exec.Command(program, append([]string{"-w"}, strings.Fields(args)...)...).CombinedOutput()
		out = string(b)
		return err
	}), "%s %s", program, args)
	return out
}

func accept(network string, first, last string) xtables.Match {
	return xtables.Match{Src: [2]netip.Addr{netip.MustParseAddr(first), netip.MustParseAddr(last)}, Comment: mark.Comment(network), Target: "ACCEPT"}
}

func put(rules ...xtables.Match) func([]xtables.Match) []xtables.Match {
	return func([]xtables.Match) []xtables.Match { return rules }
}

func TestTheRulesOfEachNetworkComeBackAndGoWithoutATrace(t *testing.T) {
	t.Parallel()
	for kind, store := range stores(t) {
		for f, program := range map[xtables.Family]string{4: "iptables-" + kind, 6: "ip6tables-" + kind} {
			t.Run(program, func(t *testing.T) {
				t.Parallel()
				ns := nstest.New(t)
				iptables(t, ns, program, "-A FORWARD -j DROP")
				before := iptables(t, ns, program, "-S")
				s := store(ns, f)
				one, two, far := accept("a", "10.0.0.1", "10.0.0.9"), accept("b", "10.1.0.1", "10.1.0.9"), accept("a", "10.2.0.1", "10.2.0.1")
				if f == 6 {
					one, two, far = accept("a", "fd00::1", "fd00::9"), accept("b", "fd01::1", "fd01::9"), accept("a", "fd02::1", "fd02::1")
				}
				require.NoError(t, s.Apply(t.Context(), "a", put(one)))
				require.NoError(t, s.Apply(t.Context(), "b", put(two)))
				require.NoError(t, s.Apply(t.Context(), "a", func(have []xtables.Match) []xtables.Match { return append(have[:1:1], far) }))
				all, err := s.All(t.Context())
				require.NoError(t, err)
				require.Equal(t, []chains.Network{{Name: "a", Rules: []xtables.Match{one, far}}, {Name: "b", Rules: []xtables.Match{two}}}, all)
				st, err := s.Read(t.Context(), "a")
				require.NoError(t, err)
				require.True(t, st.Exists)
				require.Equal(t, []xtables.Match{one, far}, st.Rules)
				require.Empty(t, layout.Faults("a", st))
				there, err := layout.Mentioned(ns, f, layout.Trunk)
				require.NoError(t, err)
				require.True(t, there)

				iptables(t, ns, program, "-A FORWARD -j CNIB-TEST")
				iptables(t, ns, program, "-F CNIB-TEST")
				st, err = s.Read(t.Context(), "a")
				require.NoError(t, err)
				require.Len(t, layout.Faults("a", st), 2)
				require.NoError(t, s.Apply(t.Context(), "a", put(one)))
				require.NoError(t, s.Apply(t.Context(), "b", put(two)))

				require.NoError(t, layout.Each(t.Context(), ns, f, "a", put()))
				require.NoError(t, layout.Each(t.Context(), ns, f, "a", put()))
				st, err = s.Read(t.Context(), "a")
				require.NoError(t, err)
				require.False(t, st.Any())
				require.NotEmpty(t, layout.Faults("a", st))
				require.NoError(t, layout.Each(t.Context(), ns, f, "b", put()))
				require.Equal(t, before, iptables(t, ns, program, "-S"))
				there, err = layout.Mentioned(ns, f, layout.Trunk)
				require.NoError(t, err)
				require.False(t, there)
			})
		}
	}
}
