//go:build linux

package agent_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/peer"
)

func TestThreeAgentsOnOneFileLetPodsReachEachOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		encap string
		needs []nstest.Feature
	}{
		{"vxlan", []nstest.Feature{nstest.VXLAN}},
		{"host-gw", nil},
		{"gre", []nstest.Feature{nstest.GRE, nstest.IP6GRE}},
		{"ipip", []nstest.Feature{nstest.IPIP, nstest.SIT}},
		{"geneve", []nstest.Feature{nstest.Geneve}},
	} {
		t.Run(c.encap, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, c.needs...)
			w := newWorld(t, 3)
			w.peers(w.machines...)
			for _, m := range w.machines {
				m.byFile(c.encap)
				m.run()
				m.attach(m.pods...)
			}
			for _, m := range w.machines {
				m.ready()
			}
			w.reachAll()
		})
	}
}

func TestAFileWithAnotherNetworkIsFollowedAtOnce(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := newWorld(t, 3)
	prefixes := func(all ...string) (p []netip.Prefix) {
		for _, s := range all {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	put := func(n int, network ...string) {
		doc := peer.Network{Prefixes: prefixes(network...)}
		for _, m := range w.machines[:n] {
			doc.Peers = append(doc.Peers, peer.Peer{Name: m.name, Pods: m.pods, Reach: peer.Reach{V4: peer.Endpoint{Addr: m.at[0]}, V6: peer.Endpoint{Addr: m.at[1]}}})
		}
		w.write(doc)
	}
	rules := func() string { return in(t, w.machines[0].ns, "nft list table inet cniblocks") }
	put(2, "10.244.0.0/16", "fd00:10:244::/48")
	m := w.machines[0]
	m.byFile("host-gw").Resync = time.Hour
	m.run()
	m.ready()
	require.Contains(t, rules(), "10.244.0.0")
	put(2, "10.0.0.0/8", "fd00::/8")
	until(t, "a larger network", func() bool { return slices.Equal(m.file().Network.Prefixes, prefixes("10.0.0.0/8", "fd00::/8")) })
	until(t, "its rules", func() bool { return strings.Contains(rules(), "10.0.0.0") && !strings.Contains(rules(), "10.244.0.0") })

	put(2, "10.244.0.0/16", "fd00:10:244::/48")
	until(t, "a smaller network", func() bool { return strings.Contains(rules(), "10.244.0.0") && !strings.Contains(rules(), "10.0.0.0") })

	put(2) // then it is all ranges of the peers
	until(t, "the ranges of two", func() bool { return len(m.file().Network.Prefixes) == 4 })
	put(3)
	until(t, "the ranges of three", func() bool { return slices.Contains(m.file().Network.Prefixes, w.machines[2].pods[0]) })
	until(t, "their rules", func() bool { return strings.Contains(rules(), "10.244.1.0-10.244.3.255") })
	put(2)
	until(t, "the rules of two", func() bool { return strings.Contains(rules(), "10.244.1.0-10.244.2.255") })
	require.True(t, m.Status().Ready)

	m.stop()
	put(1)
	m.byFile("host-gw")
	m.run()
	m.ready()
	until(t, "the rules of one, by another agent", func() bool { return !strings.Contains(rules(), "10.244.2.255") })
}
