//go:build linux

package foreign

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestWhatFlannelLeftInEitherPacketFilterGoesAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"iptables", "iptables-legacy", "ip6tables", "ip6tables-legacy"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.Feature(strings.TrimSuffix(program, "-legacy")))
			ns := nstest.New(t)
			rules := func(table string) string { return nstest.Run(t, ns, program, "-w", "-t", table, "-S") }
			for _, r := range []string{"-t nat -N OTHER", "-t nat -A POSTROUTING -j OTHER", "-t filter -A FORWARD -j ACCEPT"} {
				nstest.Run(t, ns, append([]string{program, "-w"}, strings.Fields(r)...)...)
			}
			nat, filter := rules("nat"), rules("filter")
			for _, r := range []string{
				"-t nat -N FLANNEL-POSTRTG", "-t nat -A POSTROUTING -m comment --comment flanneld -j FLANNEL-POSTRTG",
				"-t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN", "-t nat -A FLANNEL-POSTRTG -j MASQUERADE --random-fully",
				"-t filter -N FLANNEL-FWD", "-t filter -A FORWARD -j FLANNEL-FWD", "-t filter -A FLANNEL-FWD -j ACCEPT",
			} {
				nstest.Run(t, ns, append([]string{program, "-w"}, strings.Fields(r)...)...)
			}
			require.NoError(t, RemoveFlannel(t.Context(), ns))
			require.Equal(t, nat, rules("nat"))
			require.Equal(t, filter, rules("filter"))
			require.NoError(t, RemoveFlannel(t.Context(), ns))
		})
	}
}

func TestFlannelsTablesOfNFTablesGo(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	ns := nstest.New(t)
	nstest.Run(t, ns, "nft", "add table ip flannel-ipv4; add chain ip flannel-ipv4 postrtg; add table ip other; add chain ip other x")
	require.NoError(t, RemoveFlannel(t.Context(), ns))
	left := nstest.Run(t, ns, "nft", "list tables")
	require.NotContains(t, left, "flannel")
	require.Contains(t, left, "other")
}
