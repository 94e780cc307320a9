//go:build linux

// Package foreign knows what other programs leave on a node: the plugins of containernetworking/plugins v1.9.1 and earlier
// (called the reference here), flannel, and those whose devices can be told by their names.
package foreign

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
)

// devices are how the names of a program's devices begin; of several the first counts.
var devices = []struct{ prefix, maker string }{
	{"docker", "Docker"}, {"br-", "Docker or Open vSwitch"}, {"virbr", "libvirt"}, {"lxcbr", "LXC"}, {"lxdbr", "LXD"},
	{"cni-podman", "the reference bridge plugin, for podman"}, {"podman", "podman"},
	{"nerdctl", "the reference bridge plugin, for nerdctl"}, {"cni", "the reference bridge plugin"}, {"nomad", "Nomad"},
	{"flannel", "flannel"}, {"cilium_", "Cilium"}, {"vxlan.calico", "Calico"}, {"tunl", "Calico"}, {"weave", "Weave Net"},
	{"antrea", "Antrea"}, {"kube-bridge", "kube-router"}, {"vxlan_sys_", "Open vSwitch"}, {"genev_sys_", "Open vSwitch"},
	{"gre_sys", "Open vSwitch"}, {"wg", "wg-quick"}, {"tailscale", "Tailscale"},
}

// Maker is the program whose devices have such names, "" if there is none.
func Maker(device string) string {
	for _, d := range devices {
		if strings.HasPrefix(device, d.prefix) {
			return d.maker
		}
	}
	return ""
}

// What the reference calls its things. Those of SNAT are of its packages pkg/utils and pkg/ip, those of macspoofchk of pkg/link.
const (
	refChain     = "CNI-"                   // begins the chain in table nat of iptables, one for all interfaces of a container in a network
	refChainHash = 24                       // digits behind that
	refTable     = "cni_plugins_masquerade" // of nftables and the family inet, with a rule for each pod in refRules
	refRules     = "masq_checks"
	refBase      = "postrouting"   // jumps there
	refGuard     = "cni-br-iface-" // begins the chain of a port in table bridge nat, to which PREROUTING jumps
	refGuardMAC  = "-mac"          // ends the name of the chain that this one jumps to
	refGuardBase = "PREROUTING"
	natBase      = "POSTROUTING"
)

var (
	refINet   = nft.Table{Family: nft.INet, Name: refTable}
	refBridge = nft.Table{Family: nft.Bridge, Name: "nat"}
)

// What flannel has: chains of iptables with the base chains that jump to them, and tables of nftables with EnableNFTables.
var (
	flannelChains = []chain{{"nat", natBase, "FLANNEL-POSTRTG"}, {"filter", "FORWARD", "FLANNEL-FWD"}}
	flannelTables = []nft.Table{{Family: nft.IPv4, Name: "flannel-ipv4"}, {Family: nft.IPv6, Name: "flannel-ipv6"}}
)

// families in the order in which they are looked at.
var families = [...]xtables.Family{4, 6}

func proto(f xtables.Family) uint8 {
	if f == 6 {
		return nft.IPv6
	}
	return nft.IPv4
}

func nat(f xtables.Family) nft.Table { return nft.Table{Family: proto(f), Name: "nat"} }

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || nft.Missing(err) }

// SNATChains counts the chains that the reference keeps in the table nat of iptables-nft, of the family nft.IPv4 or nft.IPv6.
func SNATChains(c *nft.Conn, family uint8) (n int, err error) {
	chains, err := c.Chains(family)
	for _, ch := range chains {
		rest, ok := strings.CutPrefix(ch.Name, refChain)
		if ch.Table.Name == "nat" && ok && len(rest) == refChainHash {
			n++
		}
	}
	return n, err
}

// SNATRules counts the rules that the reference keeps in nftables, by network.
func SNATRules(c *nft.Conn) (count map[string]int, err error) {
	rules, err := c.Rules(refINet, refRules)
	count = map[string]int{}
	for _, rule := range rules {
		if _, rest, ok := strings.Cut(rule.Comment, "net: "); ok {
			network, _, _ := strings.Cut(rest, ",")
			count[network]++
		}
	}
	return count, err
}

// IsGuard reports whether a chain is the first of the two by which the reference guards a port.
func IsGuard(c nft.Chain) bool {
	return c.Table == refBridge && strings.HasPrefix(c.Name, refGuard) && !strings.HasSuffix(c.Name, refGuardMAC)
}
