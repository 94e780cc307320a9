//go:build linux

package masq

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestPodsPassAForwardPolicyThatDrops(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			fw, p := forward.Passage{NS: w.node}, dual("pods")
			require.NoError(t, NFT{w.node}.Ensure(t.Context(), p))
			for _, program := range []string{"iptables", "ip6tables"} {
				nstest.Run(t, w.node, program+"-"+kind, "-w", "-P", "FORWARD", "DROP")
				nstest.Run(t, w.node, program+"-"+kind, "-w", "-N", "DOCKER-USER")
				nstest.Run(t, w.node, program+"-"+kind, "-w", "-A", "FORWARD", "-j", "DOCKER-USER")
			}
			before := nstest.Firewall(t, w.node)
			require.False(t, w.seenFrom(t, outside4).IsValid())
			require.ErrorContains(t, fw.Check(t.Context(), "pods", p.Sources), "FORWARD policy is DROP")

			require.NoError(t, fw.Ensure(t.Context(), "pods", p.Sources))
			after := nstest.Firewall(t, w.node)
			require.NoError(t, fw.Ensure(t.Context(), "pods", p.Sources))
			require.Equal(t, after, nstest.Firewall(t, w.node))
			require.NoError(t, fw.Check(t.Context(), "pods", p.Sources))
			require.Equal(t, uplink4, w.seenFrom(t, outside4))
			require.Equal(t, uplink6, w.seenFrom(t, outside6))

			require.Equal(t, strings.ReplaceAll(`-P FORWARD DROP
-A FORWARD -m comment --comment cniblocks -j CNIB-FORWARD
-A FORWARD -j DOCKER-USER
-A CHAIN -m iprange --src-range 10.1.0.2-10.1.0.254 -m comment --comment "cniblocks pods" -j ACCEPT
-A CHAIN -m iprange --dst-range 10.1.0.2-10.1.0.254 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "cniblocks pods" -j ACCEPT
-A CNIB-FORWARD -m comment --comment "cniblocks pods" -j CHAIN
`, "CHAIN", mark.Chain("pods")), forwardRules(t, w, "iptables-"+kind))

			require.NoError(t, fw.Remove(t.Context(), "pods"))
			require.NoError(t, fw.Remove(t.Context(), "pods"))
			require.Equal(t, before, nstest.Firewall(t, w.node))
			require.False(t, w.seenFrom(t, outside6).IsValid())
		})
	}
}

// forwardRules is what the program lists, less the other chains.
func forwardRules(t testing.TB, w world, program string) (out string) {
	t.Helper()
	for line := range strings.Lines(nstest.Run(t, w.node, program, "-w", "-S")) {
		if strings.Contains(line, "FORWARD") || strings.HasPrefix(line, "-A CNIB") {
			out += line
		}
	}
	return strings.ReplaceAll(out, "-N CNIB-FORWARD\n", "")
}
