//go:build linux

package agent_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

func TestANetworkIsBuiltAsFlannelDoesUnderItsNames(t *testing.T) {
	t.Parallel()
	v4, v6 := []inet.Family{inet.IPv4}, []inet.Family{inet.IPv6}
	const two = `"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48"`
	for config, want := range map[string][]agent.Tunnel{
		`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`: {
			{Config: overlay.Config{Encap: "vxlan", VNI: 1, Port: 8472}, Device: "flannel.1", Families: v4, Underlay: inet.IPv4}},
		`{` + two + `, "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 9000, "DirectRouting": true}}`: {
			{Config: overlay.Config{Encap: "vxlan", VNI: 7, Port: 4789, DirectRouting: true}, Device: "flannel.7", Families: v4, Underlay: inet.IPv4, MTU: 8950},
			{Config: overlay.Config{Encap: "vxlan", VNI: 7, Port: 4789, DirectRouting: true}, Device: "flannel-v6.7", Families: v6, Underlay: inet.IPv6, MTU: 8930}},
		`{` + two + `, "Backend": {"Type": "host-gw"}}`: {{Config: overlay.Config{Encap: "host-gw"}}},
		`{` + two + `, "Backend": {"Type": "wireguard", "PersistentKeepaliveInterval": 25}}`: {
			{Config: overlay.Config{Encap: "wireguard", Port: 51820, PersistentKeepalive: 25}, Device: "flannel-wg", Families: v4, Underlay: inet.IPv4},
			{Config: overlay.Config{Encap: "wireguard", Port: 51821, PersistentKeepalive: 25}, Device: "flannel-wg-v6", Families: v6, Underlay: inet.IPv6}},
		`{` + two + `, "Backend": {"Type": "wireguard", "Mode": "ipv6", "MTU": 1500}}`: {
			{Config: overlay.Config{Encap: "wireguard", Port: 51820}, Device: "flannel-wg", Underlay: inet.IPv6, MTU: 1420}},
		`{"Network": "10.244.0.0/16", "Backend": {"Type": "ipip"}}`: {
			{Config: overlay.Config{Encap: "ipip"}, Device: "flannel.ipip", Families: v4, Underlay: inet.IPv4}},
	} {
		c, err := flannel.ParseConfig([]byte(config))
		require.NoError(t, err)
		l, err := agent.Flannel(c)
		require.NoError(t, err)
		require.Equal(t, want, l.Tunnels, config)
		require.Equal(t, c.Prefixes(), l.Prefixes)
		b, err := json.Marshal(l)
		require.NoError(t, err)
		var again agent.Layout
		require.NoError(t, json.Unmarshal(b, &again))
		require.Equal(t, l, again, "what is kept on disk is the same")
		for _, tunnel := range l.Tunnels {
			_, err := tunnel.Encapsulation()
			require.NoError(t, err)
		}
	}
	c, err := flannel.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard", "PSK": "` + strings.Repeat("A", 43) + `="}}`))
	require.NoError(t, err)
	_, err = agent.Flannel(c)
	require.ErrorContains(t, err, "Backend.PSK")
	require.NotContains(t, err.Error(), "AAA")
}

func TestPodsPassAFORWARDPolicyThatDropsAndTheRuleIsPutBack(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN, nstest.IPTables, nstest.NFT)
	w := newWorld(t, 2)
	w.peers(w.machines...)
	for _, m := range w.machines {
		in(t, m.ns, "iptables -w -P FORWARD DROP; ip6tables -w -P FORWARD DROP")
		m.byFile("vxlan").Resync = time.Hour
		m.run()
		m.attach(m.pods...)
		m.ready()
	}
	w.reachAll()
	m := w.machines[0]
	in(t, m.ns, "iptables -w -F FORWARD")
	until(t, "the jump is back", func() bool { return strings.Contains(in(t, m.ns, "iptables -w -S FORWARD"), "CNIB-FORWARD") })
	in(t, m.ns, "ip6tables -w -F; nft flush table inet cniblocks")
	until(t, "all is back", func() bool {
		return strings.Contains(in(t, m.ns, "ip6tables -w -S"), "-A CNIB-FORWARD") && strings.Contains(in(t, m.ns, "nft list table inet cniblocks"), "masquerade")
	})
	w.reachAll()
}
