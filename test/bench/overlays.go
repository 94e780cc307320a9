//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// Arms of the overlay scenario.
const (
	bridgeAlone = "bridge alone"
	hostGW      = "host-gw"
	overlay     = "overlay"
)

// overlays compares ADD through overlay and host-gw, with a thousand peers that do not change, with bridge alone.
func overlays(r *run) error {
	var arms []*arm
	defer func() { closeAll(arms) }()
	for _, plugin := range []string{overlay, hostGW} {
		if _, err := os.Stat(filepath.Join(r.Ours, plugin)); err != nil {
			fmt.Fprintf(os.Stderr, "(%s is not among our plugins) ", plugin)
			continue
		}
		a, err := r.arm(plugin, r.Ours, scratch.Network{Type: plugin, Subnets: []string{peerPods(0).String()}})
		if err != nil {
			return err
		}
		arms = append(arms, a)
		file := filepath.Join(a.world.Dir, "peers.json")
		if err := writePeers(file, pick(r, 1000, 100)); err != nil {
			return err
		}
		a.net.Keys = map[string]any{"peersFile": file, "node": peerName(0), "stateDir": filepath.Join(a.world.Dir, "state")}
		if plugin == overlay {
			a.net.Keys["encap"] = "vxlan"
		}
	}
	if len(arms) == 0 {
		return nil
	}
	alone, err := r.arm(bridgeAlone, r.Ours, scratch.Network{Subnets: []string{peerPods(0).String()}})
	if err != nil {
		return err
	}
	arms = append(arms, alone)
	return r.interleave("overlay", r.rounds(100, 20), arms, r.attach)
}

// writePeers writes a peers file of n nodes besides this one, all on the link of the uplink.
func writePeers(file string, n int) error {
	type peer struct {
		Name     string   `json:"name"`
		Endpoint []string `json:"endpoint"`
		Pods     []string `json:"pods"`
	}
	content := struct {
		Network []string `json:"network"`
		Peers   []peer   `json:"peers"`
	}{Network: []string{"10.0.0.0/8"}}
	endpoint := scratch.NodeAddrs[0].Addr()
	for i := range n + 1 {
		content.Peers = append(content.Peers, peer{peerName(i), []string{endpoint.String()}, []string{peerPods(i).String()}})
		if endpoint = endpoint.Next(); endpoint == scratch.OutsideAddrs[0].Addr() {
			endpoint = endpoint.Next()
		}
	}
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

func peerName(i int) string { return fmt.Sprintf("node%d", i) }

func peerPods(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(88 + i>>8), byte(i), 0}), 24)
}
