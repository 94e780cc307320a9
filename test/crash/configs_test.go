//go:build linux

package crash_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// config is a way to attach pods. DIR is a directory of the node.
type config struct {
	name  string
	json  string
	peers string // "" or the same with the other list of peers
	files map[string]string
	needs []nstest.Feature
	rare  bool // few kernels have it, so it mostly runs under emulation
	alone bool // a pod's interface has no end on the node: GC comes when it is gone with its container
}

// rare marks what few kernels have.
func rare(c config) config {
	c.rare = true
	return c
}

func bridged(name, keys string, needs ...nstest.Feature) config {
	return config{name: name, needs: needs, json: `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0",` + keys + `}`}
}

// alone is a plugin whose interface has no end on the node.
func alone(plugin, keys string, need nstest.Feature) config {
	return config{name: plugin, needs: []nstest.Feature{need}, alone: true, json: `{"cniVersion":"1.1.0","name":"net","type":"` + plugin + `",` + keys + v4 + `}`}
}

// The peers of an overlay: a is the node. The second list has one less, one more, and one with another address.
const (
	peersOne = `[{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]KEYa},
		{"name":"b","endpoint":["192.0.2.12","2001:db8::12"],"pods":["10.244.2.0/24","fd00:10:244:2::/64"]KEYb},
		{"name":"c","endpoint":["192.0.2.13","2001:db8::13"],"pods":["10.244.3.0/24","fd00:10:244:3::/64"]KEYc}]`
	peersTwo = `[{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]KEYa},
		{"name":"c","endpoint":["192.0.2.23","2001:db8::23"],"pods":["10.244.3.0/24","fd00:10:244:3::/64"]KEYc},
		{"name":"d","endpoint":["192.0.2.14","2001:db8::14"],"pods":["10.244.4.0/24","fd00:10:244:4::/64"]KEYd}]`
)

// fromFiles has the peers in files.
func fromFiles(c config) config {
	c.files = map[string]string{}
	for name, conf := range map[string]*string{"one.json": &c.json, "two.json": &c.peers} {
		before, rest, _ := strings.Cut(*conf, `"network":`)
		list, after, _ := strings.Cut(rest, "}],")
		c.files[name] = `{"network":` + list + "}]}"
		*conf = before + `"peersFile":"DIR/peers/` + name + `",` + after
	}
	return c
}

// keyed gives every peer a WireGuard key. That of a is made by the node itself, which refuses another.
func keyed(peers string) string {
	for i, name := range []string{"b", "c", "d"} {
		peers = strings.ReplaceAll(peers, "KEY"+name, fmt.Sprintf(`,"publicKey":"%s%d8="`, strings.Repeat("A", 41), i+2))
	}
	return strings.ReplaceAll(peers, "KEYa", "")
}

func carried(name, typ, encap string, needs ...nstest.Feature) config {
	one, two := peersOne, peersTwo
	if strings.Contains(encap, "wireguard") {
		one, two = keyed(one), keyed(two)
	} else {
		for _, n := range []string{"a", "b", "c", "d"} {
			one, two = strings.ReplaceAll(one, "KEY"+n, ""), strings.ReplaceAll(two, "KEY"+n, "")
		}
	}
	conf := `{"cniVersion":"1.1.0","name":"net","type":"` + typ + `",` + encap + `"ipMasq":true,"stateDir":"DIR/run","PEERS,
		"delegate":{"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DIR/leases"}}}`
	with := func(peers string) string {
		return strings.ReplaceAll(conf, `"PEERS`, `"network":["10.244.0.0/16","fd00:10:244::/48"],"peers":`+peers)
	}
	return config{name: name, json: with(one), peers: with(two), needs: needs}
}

// subnetEnv is what a node of a flannel network knows of itself. Nobody but the plugin masquerades.
const subnetEnv = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

const (
	v4   = `"ipam":{"type":"host-local","dataDir":"DIR/leases","subnet":"10.1.2.0/24"}`
	dual = `"ipam":{"type":"host-local","dataDir":"DIR/leases","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1:2::/64"}]]}`
)

var configs = []config{
	bridged("bridge, IPv4", `"isGateway":true,"ipMasq":true,`+v4, nstest.NFT),
	bridged("bridge, dual stack", `"isDefaultGateway":true,"ipMasq":true,`+dual, nstest.NFT),
	bridged("bridge, dual stack, iptables", `"isDefaultGateway":true,"ipMasq":true,"ipMasqBackend":"iptables",`+dual, nstest.IPTables, nstest.IP6Tables),
	bridged("bridge, macspoofchk", `"isGateway":true,"macspoofchk":true,"hairpinMode":true,`+v4, nstest.NFTBridge),
	rare(bridged("bridge, VLAN", `"isGateway":true,"vlan":7,"ipMasq":true,`+v4, nstest.VLANFiltering, nstest.NFT)),
	bridged("bridge, layer 2", `"mtu":1400`),
	alone("macvlan", `"master":"uplink",`, nstest.Macvlan),
	{name: "flannel", needs: []nstest.Feature{nstest.NFT}, json: `{"cniVersion":"1.1.0","name":"net","type":"flannel",
		"subnetFile":"DIR/peers/subnet.env","dataDir":"DIR/flannel","ipam":{"dataDir":"DIR/leases"},
		"delegate":{"bridge":"br0","isDefaultGateway":true}}`, files: map[string]string{"subnet.env": subnetEnv}},
	carried("host-gw", "host-gw", "", nstest.NFT),
	carried("overlay, vxlan", "overlay", `"encap":"vxlan",`, nstest.VXLAN, nstest.NFT),
	fromFiles(carried("overlay, vxlan, peers file", "overlay", `"encap":"vxlan",`, nstest.VXLAN, nstest.NFT)),
	carried("overlay, vxlan gpe", "overlay", `"encap":"vxlan","gpe":true,`, nstest.VXLAN, nstest.NFT),
	carried("overlay, vxlan, layer 2", "overlay", `"encap":"vxlan","l2":true,`, nstest.VXLAN, nstest.NFT),
	rare(carried("overlay, gre", "overlay", `"encap":"gre",`, nstest.GRE, nstest.IP6GRE, nstest.NFT)),
	rare(carried("overlay, ipip", "overlay", `"encap":"ipip",`, nstest.IPIP, nstest.SIT, nstest.NFT)),
	rare(carried("overlay, geneve", "overlay", `"encap":"geneve",`, nstest.Geneve, nstest.NFT)),
	rare(carried("overlay, wireguard", "overlay", `"encap":"wireguard","dataDir":"DIR/lib",`, nstest.WireGuard, nstest.NFT)),
}

// each runs a test for every configuration that is picked and that the kernel can do. With -all or -verbs none counts as rare.
func each(t *testing.T, picked func(config) bool, f func(t *testing.T, c config)) {
	for _, c := range configs {
		c.rare = c.rare && !*all && !*verbs
		if !picked(c) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, c.needs...)
			f(t, c)
		})
	}
}

func everyone(config) bool         { return true }
func common(c config) bool         { return !c.rare }
func rareBridges(c config) bool    { return !c.rare || c.peers == "" }
func overlays(c config) bool       { return c.peers != "" }
func commonOverlays(c config) bool { return !c.rare && c.peers != "" }
