// Program plugins is every CNI plugin of cniblocks in one file: the name by which it is called says which.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/reap"
	"github.com/cniblocks/cniblocks/internal/start"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/flannel"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/loopback"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func plugins(remove func(context.Context, *netns.NS, int) error) cni.Delegates {
	return cni.Delegates{
		"bridge":     bridge.Plugin{Remove: remove},
		"flannel":    flannel.Plugin{},
		"host-gw":    overlay.Plugin{},
		"host-local": hostlocal.Plugin{},
		"loopback":   loopback.Plugin{},
		"overlay":    overlay.Plugin{},
	}
}

func main() {
	reap.Child()
	start.Grow()
	if os.Getenv("GOMAXPROCS") == start.Processors {
		_ = os.Unsetenv("GOMAXPROCS") // which other plugins would inherit
	} else {
		start.Spread() // the user has asked for processors
	}
	var d reap.Deleter
	all := plugins(d.Delete)
	name := filepath.Base(os.Args[0])
	p, ok := all[name]
	if len(os.Args) > 1 || !ok {
		os.Exit(explain(name, all))
	}
	if os.Getenv("CNI_COMMAND") == "" {
		os.Exit(explain(name, all))
	}
	os.Exit(cni.Run(context.Background(), p, all, os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// explain answers a person who calls a plugin by hand.
func explain(name string, all cni.Delegates) int {
	names := slices.Sorted(maps.Keys(all))
	if len(os.Args) == 2 && os.Args[1] == "--list" {
		fmt.Println(strings.Join(names, "\n"))
		return 0
	}
	out, status := os.Stderr, 1
	if len(os.Args) == 2 && (os.Args[1] == "--help" || os.Args[1] == "-h") {
		out, status = os.Stdout, 0
	}
	fmt.Fprintf(out, `%s: a CNI plugin of cniblocks; one program serves as %s, by the name it is called.

A container runtime calls it: the request is in the environment, the configuration on standard input.
Try it by hand, for a namespace made with 'ip netns add blue':

  echo '{"cniVersion":"1.0.0","name":"demo","type":"bridge","bridge":"demo0","isGateway":true,
         "ipam":{"type":"host-local","subnet":"10.88.0.0/24","dataDir":"/tmp/demo-leases"}}' |
  CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/blue CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge

CNI_COMMAND is one of ADD, DEL, CHECK, STATUS, GC, VERSION. CNI %s to %s are spoken.
--list prints the plugins' names, --help this text. 'cniblocks show' draws what is on a node.
`, name, strings.Join(names, ", "), cni.Versions[0], cni.Versions[len(cni.Versions)-1])
	return status
}
