// Program plugins is every CNI plugin of cniblocks in one file: the name by which it is called says which,
// see cni.Delegates.Called.
package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/start"
	"github.com/cniblocks/cniblocks/internal/base/version"
	"github.com/cniblocks/cniblocks/internal/base/wait"
	"github.com/cniblocks/cniblocks/internal/kernel/reap"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bandwidth"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/flannel"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/loopback"
	"github.com/cniblocks/cniblocks/plugins/macvlan"
	"github.com/cniblocks/cniblocks/plugins/overlay"
	"github.com/cniblocks/cniblocks/plugins/portmap"
	"github.com/cniblocks/cniblocks/plugins/ptp"
)

func plugins(remove func(context.Context, *netns.NS, int) error) cni.Delegates {
	return cni.Delegates{
		"bandwidth":  bandwidth.Plugin,
		"bridge":     bridge.Plugin{Remove: remove},
		"flannel":    flannel.Plugin{},
		"host-gw":    overlay.Plugin{},
		"host-local": hostlocal.Plugin{},
		"loopback":   loopback.Plugin{},
		"macvlan":    macvlan.Plugin(),
		"overlay":    overlay.Plugin{},
		"portmap":    portmap.Plugin,
		"ptp":        ptp.Plugin{Remove: remove},
	}
}

func main() {
	reap.Child()
	start.Grow()
	wait.Hasten = start.Hasten
	if os.Getenv("GOMAXPROCS") == start.Processors {
		_ = os.Unsetenv("GOMAXPROCS") // which other plugins would inherit
	} else {
		start.Spread() // the user has asked for processors
	}
	var d reap.Deleter
	all := plugins(d.Delete)
	arg0 := ""
	if len(os.Args) > 0 { // before Linux 5.18 there may be none
		arg0 = os.Args[0]
	}
	flag := ""
	if len(os.Args) == 2 {
		flag = os.Args[1]
	}
	if os.Getenv("CNI_COMMAND") == "" || flag == "--help" || flag == "-h" || flag == "--list" || flag == "--version" {
		os.Exit(explain(arg0, flag, all))
	}
	os.Exit(all.Run(context.Background(), arg0, os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// help is what a plugin does, a configuration to try it with, and where more is said of it.
func help(name string) (what, conf, more string) {
	switch name {
	case "bandwidth":
		return "limits the rates at which a container sends and receives, behind the plugin that attaches it", `"type":"bandwidth",
         "ingressRate":10000000,"ingressBurst":4294967295,"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"HOST END"}]}`, "docs/plugins/bandwidth.md"
	case "flannel":
		return "attaches a container to this node's range of a flannel network, by a delegate", `"type":"flannel","subnetFile":"/run/flannel/subnet.env",
         "delegate":{"bridge":"demo0","isDefaultGateway":true}`, "docs/plugins/flannel.md"
	case "host-gw":
		return "carries pods between machines by plain routes, and has a delegate attach them", `"type":"host-gw",
         "peersFile":"/etc/cniblocks/peers.json","delegate":{"type":"bridge","bridge":"demo0"}`, "docs/plugins/overlay.md"
	case "host-local":
		return "leases addresses from ranges that this node has for itself; other plugins call it", `"type":"host-local",
         "ipam":{"type":"host-local","subnet":"10.88.0.0/24","dataDir":"/tmp/demo-leases"}`, "docs/plugins/host-local.md"
	case "loopback":
		return "sets the loopback interface of a container up", `"type":"loopback"`, "README.md"
	case "macvlan":
		return "attaches a container to the network of a device of the node, as a station of its own", `"type":"macvlan","master":"eth0",
         "ipam":{"type":"host-local","subnet":"10.88.0.0/24","dataDir":"/tmp/demo-leases"}`, "docs/plugins/macvlan.md"
	case "overlay":
		return "carries pods between machines by a tunnel, and has a delegate attach them", `"type":"overlay","encap":"vxlan",
         "peersFile":"/etc/cniblocks/peers.json","delegate":{"type":"bridge","bridge":"demo0"}`, "docs/plugins/overlay.md"
	case "portmap":
		return "leads ports of the node to a container, behind the plugin that attaches it", `"type":"portmap",
         "runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`, "docs/plugins/portmap.md"
	case "ptp":
		return "attaches a container to the node by a veth pair of its own, without a bridge", `"type":"ptp",
         "ipam":{"type":"host-local","subnet":"10.88.0.0/24","dataDir":"/tmp/demo-leases","routes":[{"dst":"0.0.0.0/0"}]}`, "docs/plugins/ptp.md"
	}
	return "attaches a container to a Linux bridge by a veth pair", `"type":"bridge","bridge":"demo0","isGateway":true,
         "ipam":{"type":"host-local","subnet":"10.88.0.0/24","dataDir":"/tmp/demo-leases"}`, "docs/plugins/bridge.md"
}

// explain answers a person who calls a plugin by hand.
func explain(arg0, flag string, all cni.Delegates) int {
	names := slices.Sorted(maps.Keys(all))
	name, err := all.Called(arg0)
	oldest, newest := cni.Versions[0], cni.Versions[len(cni.Versions)-1]
	out, status := os.Stderr, 1
	switch flag {
	case "--list":
		fmt.Println(strings.Join(names, "\n"))
		return 0
	case "--version":
		fmt.Printf("CNI %s plugin, cniblocks %s\nCNI %s to %s\n", cmp.Or(name, strings.Join(names, ", ")), version.String(), oldest, newest)
		return 0
	case "--help", "-h":
		out, status = os.Stdout, 0
	}
	if err != nil {
		fmt.Fprintln(out, err)
		name = "bridge"
	}
	what, conf, more := help(name)
	ifName := "eth0"
	if name == "loopback" {
		ifName = "lo"
	}
	fmt.Fprintf(out, `%[1]s: a CNI plugin of cniblocks, which %[2]s.
One program serves as %[3]s, by the name it is called.

A container runtime calls it: the request is in the environment, the configuration on standard input.
Try it by hand, for a namespace made with 'ip netns add blue':

  echo '{"cniVersion":"1.0.0","name":"demo",%[4]s}' |
  CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/blue CNI_IFNAME=%[5]s CNI_PATH=/opt/cni/bin /opt/cni/bin/%[1]s

CNI_COMMAND is one of ADD, DEL, CHECK, STATUS, GC, VERSION. CNI %[6]s to %[7]s are spoken. All keys: %[8]s.
--list prints the plugins' names, --version the version, --help this text. 'cniblocks show' draws what is on a node.
`, name, what, strings.Join(names, ", "), conf, ifName, oldest, newest, more)
	return status
}
