//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
	"github.com/cniblocks/cniblocks/inventory"
)

const showHelp = `Usage: cniblocks show [NETWORK] [--container ID] [--address ADDRESS] [-o text|json] [OPTIONS]

Draws what is on a node for its pods: uplinks, bridges with their ports, pods with address,
container and lease, SNAT, routes, tunnels with their peers, and what of other programs is in the
way. It works on any node and changes nothing.

Each object says whose it is:

  [ours]        cniblocks made it; 'cniblocks cleanup' removes it
  [reference]   the reference CNI plugins (containernetworking/plugins) made it
  [foreign]     another program or a person made it; cniblocks never touches it

With the name of a NETWORK, only that network is drawn; with --container, what belongs to containers
whose ID begins so; with --address, what bears an address or leads to it. Of each kind some lines are
drawn and the rest is counted, unless --all is given. Long container IDs are shortened; -o json has
everything in full. The picture is as wide as the terminal, or as COLUMNS says, and 100 columns where
it goes elsewhere.

Examples:

  sudo cniblocks show
  sudo cniblocks show pods --all
  sudo cniblocks show --container 0123456789ab
  sudo cniblocks show --address 10.244.2.7
  sudo cniblocks show --netns /run/netns/node1
  sudo cniblocks show -o json | jq '.attachments[] | select(.pod == null)'
`

func show(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("show", showHelp)
	var dirs list
	format := o.String("o", "text", "the `FORM`: text, or json for programs")
	all := o.Bool("all", false, "draw every line of a kind")
	container := o.String("container", "", "only containers whose `ID` begins so")
	address := o.String("address", "", "only what bears the `ADDRESS`, or leads to it")
	path := o.String("netns", "", "the node's namespace, a `PATH` or a name of ip-netns(8); this one if not given")
	confDir := o.String("conf-dir", inventory.DefaultConfDir, "where conflists are, a `DIR`; they say where leases are")
	stateDir := o.String("state-dir", inventory.DefaultStateDir, "where plugins keep state, a `DIR`")
	o.Var(&dirs, "data-dir", "where leases are, a `DIR`, in place of the usual ones; may be given several times")
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if *format != "text" && *format != "json" {
		fmt.Fprintf(errs, "cniblocks show: -o %s: want text or json\n", *format)
		return misuse
	}
	addr, err := netip.ParseAddr(*address)
	if *address != "" && (err != nil || addr.Zone() != "") {
		fmt.Fprintf(errs, "cniblocks show: --address %s: want an address such as 10.244.1.2, without a length\n", *address)
		return misuse
	}
	ns, err := openNS(*path)
	if err != nil {
		return complain(errs, "show", err)
	}
	defer ns.Close()
	network := ""
	if len(words) == 1 {
		network = words[0]
	}
	node, err := inventory.Read(ctx, inventory.Options{NS: ns, DataDirs: dirs, ConfDir: *confDir, StateDir: *stateDir, Network: network})
	if err != nil {
		return complain(errs, "show", err)
	}
	if network != "" {
		if !slices.Contains(node.Networks(), network) {
			return unknownNetwork(errs, "show", network, node)
		}
		node = node.Only(network)
	}
	if *container != "" {
		if node = node.OnlyContainer(*container); node.Empty() {
			return complain(errs, "show", fmt.Errorf("no interface and no lease here is of a container whose ID begins with %q", *container))
		}
	}
	if *address != "" {
		if node = node.OnlyAddr(addr.Unmap()); node.Empty() && !ownAddress(node, addr.Unmap()) {
			return complain(errs, "show", fmt.Errorf("nothing here has the address %s or leads to it, but a default route may", addr))
		}
	}
	if *format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(node); err != nil {
			return complain(errs, "show", err)
		}
		return 0
	}
	picture(node, *path, network, *all).draw(out, columnsOf(out, os.Getenv))
	return 0
}

func ownAddress(n *inventory.Node, a netip.Addr) bool {
	return slices.ContainsFunc(n.Uplinks, func(u inventory.Uplink) bool {
		return slices.ContainsFunc(u.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// unknownNetwork says that a network left no trace, and which did.
func unknownNetwork(errs io.Writer, command, network string, node *inventory.Node) int {
	fmt.Fprintf(errs, "cniblocks %s: there is no trace of a network %q here", command, network)
	all := node.Networks()
	if near, ok := nearest.Of(network, slices.Values(all)); ok {
		fmt.Fprintf(errs, "; did you mean %q?", near)
	}
	if len(all) == 0 {
		fmt.Fprint(errs, ", nor of any other")
	} else {
		fmt.Fprintf(errs, "; there are: %s", strings.Join(all, ", "))
	}
	fmt.Fprintln(errs)
	return failed
}
