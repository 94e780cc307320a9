//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/inventory"
	"github.com/cniblocks/cniblocks/internal/nearest"
)

const showHelp = `Usage: cniblocks show [NETWORK] [-o text|json] [OPTIONS]

Draws what is on a node for its pods: uplinks, bridges with their ports, pods with address,
container and lease, SNAT, routes, tunnels, and what of other programs is in the way. It works on
any node and changes nothing.

Each object says whose it is:

  [ours]        cniblocks made it; 'cniblocks cleanup' removes it
  [reference]   the reference CNI plugins (containernetworking/plugins) made it
  [foreign]     another program or a person made it; cniblocks never touches it

With the name of a NETWORK, only that network is drawn. Long container IDs are shortened; -o json
has them in full.

Examples:

  sudo cniblocks show
  sudo cniblocks show pods
  sudo cniblocks show --netns /run/netns/node1
  sudo cniblocks show -o json | jq '.attachments[] | select(.pod == null)'
`

func show(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("show", showHelp)
	var dirs list
	format := o.String("o", "text", "the `FORM`: text, or json for programs")
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
	ns, err := openNS(*path)
	if err != nil {
		return complain(errs, "show", err)
	}
	defer ns.Close()
	node, err := inventory.Read(ctx, inventory.Options{NS: ns, DataDirs: dirs, ConfDir: *confDir, StateDir: *stateDir})
	if err != nil {
		return complain(errs, "show", err)
	}
	network := ""
	if len(words) == 1 {
		network = words[0]
		if !slices.Contains(node.Networks(), network) {
			return unknownNetwork(errs, "show", network, node)
		}
		node = node.Only(network)
	}
	if *format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(node); err != nil {
			return complain(errs, "show", err)
		}
		return 0
	}
	picture(node, *path, network).draw(out)
	return 0
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
