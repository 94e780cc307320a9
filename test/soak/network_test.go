//go:build linux

package soak

import (
	"fmt"
	"strings"
	"sync"

	"github.com/cniblocks/cniblocks/internal/test/machine"
)

// network is a configuration that many slots use.
type network struct {
	name string
	// conf is the configuration in a generation, which all of the network share, for one slot, in one of several variants
	// that differ in what concerns a pod alone.
	conf func(n *network, generation, variant, slot int) string
	dir  string
	// gc excludes everything else: a runtime that calls it knows of every ADD.
	gc sync.RWMutex
}

const variants = 2

func networks(dir string) []*network {
	all := []*network{
		{name: "dual", conf: dual}, {name: "guarded", conf: guarded}, {name: "plain", conf: plain},
		{name: "tunnel", conf: tunnel}, {name: "single", conf: single}, {name: "iptables", conf: iptables},
		{name: "flannel", conf: flannel},
	}
	for _, n := range all {
		n.dir = dir
	}
	return all
}

func (n *network) fill(conf string, generation, variant int) string {
	except := []string{`"198.51.100.0/24"`, `"203.0.113.0/24","198.51.100.0/24"`, ``}[generation%3]
	return strings.NewReplacer("NAME", n.name, "DIR", n.dir, "EXCEPT", except, "TRUE", fmt.Sprint(variant == 1)).Replace(conf)
}

func dual(n *network, generation, variant, _ int) string {
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"bridge","bridge":"br-NAME","isDefaultGateway":true,"ipMasq":true,
		"ipMasqExcept":[EXCEPT],"hairpinMode":TRUE,"ipam":{"type":"host-local","dataDir":"DIR",
		"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00:1::/64"}]]}}`, generation, variant)
}

func guarded(n *network, generation, variant, _ int) string {
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"bridge","bridge":"br-NAME","isGateway":true,"macspoofchk":true,
		"portIsolation":TRUE,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.2.0.0/24"}}`, generation, variant)
}

func plain(n *network, generation, variant, _ int) string {
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"bridge","bridge":"br-NAME","mtu":1400,"hairpinMode":TRUE}`, generation, variant)
}

func tunnel(n *network, generation, variant, _ int) string {
	peers := ""
	for i := range 1 + generation%3 {
		peers += fmt.Sprintf(`,{"name":"p%d","endpoint":"192.0.2.%d","pods":["10.244.%d.0/24","fd00:10:244:%d::/64"]}`, i, 20+i, 20+i, 20+i)
	}
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"overlay","encap":"vxlan","ipMasq":true,"ipMasqExcept":[EXCEPT],
		"stateDir":"DIR/run","network":["10.244.0.0/16","fd00:10:244::/48"],
		"peers":[{"name":"self","endpoint":"192.0.2.11","pods":["10.244.1.0/24","fd00:10:244:1::/64"]}`+peers+`],
		"delegate":{"type":"bridge","bridge":"br-NAME","isDefaultGateway":true,"hairpinMode":TRUE,
		"ipam":{"type":"host-local","dataDir":"DIR"}}}`, generation, variant)
}

// single takes each pod's address from an IPAM plugin of others, so that the masquerading is an entry for each pod.
func single(n *network, generation, variant, slot int) string {
	return n.fill(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"NAME","type":"bridge","bridge":"br-NAME","isGateway":true,"ipMasq":true,
		"hairpinMode":TRUE,"ipam":{"type":"static","addresses":[{"address":"10.5.%d.%d/16","gateway":"10.5.0.1"}]}}`,
		1+slot/250, 2+slot%250), generation, variant)
}

func iptables(n *network, generation, variant, _ int) string {
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"bridge","bridge":"br-NAME","isGateway":true,"ipMasq":true,
		"ipMasqBackend":"iptables","ipMasqExcept":[EXCEPT],"hairpinMode":TRUE,
		"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.6.0.0/24"}}`, generation, variant)
}

// flannel stands beside a flannel daemon, whose file the machine has.
func flannel(n *network, generation, variant, _ int) string {
	return n.fill(`{"cniVersion":"1.1.0","name":"NAME","type":"flannel","subnetFile":"DIR/subnet.env","dataDir":"DIR/flannel",
		"ipam":{"dataDir":"DIR"},"delegate":{"bridge":"br-NAME","isDefaultGateway":true,"hairpinMode":TRUE}}`, generation, variant)
}

// collected is the configuration for GC, which is a verb of CNI 1.1.
func (n *network) collected(generation int, valid []string) string {
	return machine.GC(machine.With(n.conf(n, generation, 0, 0), "cniVersion", "1.1.0"), valid...)
}

// state is what a slot's worker knows of it.
type state int

const (
	absent   state = iota
	attached       // CHECK passes
	lost           // attached, and then the namespace went
	unknown        // an ADD or DEL was killed
)

// slot is a place for one attachment after another.
type slot struct {
	*network
	n       int // unlike that of any other slot
	state   state
	life    int // which attachment it is
	id      string
	pod     machine.Pod
	variant int
	result  []byte
}
