//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/inventory/sweep"
)

const cleanupHelp = `Usage: cniblocks cleanup --network NAME | --all [--dry-run] [OPTIONS]

Removes what bears the marks of cniblocks, and prints what it removed. Where no runtime calls GC,
this is how a network leaves a node; with --all it is how cniblocks does. It asks nothing before it
begins: --dry-run only says what would go. A network of which there is no trace is an error that
lists those that are here.

Where an agent keeps the network it refuses, since that would make everything again: stop the agent
first. While it works no agent of the network starts.

Of a network go, in this order:

  - the interfaces of its pods, also of pods that live: they lose this network
  - entries by which those were held to their MAC (macspoofchk)
  - tunnel devices, and devices in VLANs of a bridge
  - the bridge, if cniblocks made it and no other port is left on it
  - addresses that cniblocks put on bridges of others, and routes of ours
  - the SNAT rule, in nftables and in iptables, and rules that let pods pass a FORWARD policy
  - leases of the removed interfaces; and when the network has no interface left, all its leases,
    their directory, and our index of them
  - what the flannel plugin has on record of them
  - /run/cniblocks/NAME

If an interface cannot be removed, the addresses stay leased. What stays on purpose: what the
reference plugins or others made, kernel parameters such as forwarding, and /var/lib/cniblocks with
the node's private keys.

Leases and state are files of the machine. In another network namespace than the machine's own,
only the leases of removed interfaces go, unless --data-dir says where those of the namespace are.

Examples:

  sudo cniblocks cleanup --network pods --dry-run   only say what would go
  sudo cniblocks cleanup --network pods             one network
  sudo cniblocks cleanup --all                      everything, before the plugins are uninstalled
`

func cleanup(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("cleanup", cleanupHelp)
	var dirs list
	network := o.String("network", "", "the `NAME` of the network; or --all")
	all := o.Bool("all", false, "all networks")
	dry := o.Bool("dry-run", false, "change nothing, say what would be removed")
	path := o.String("netns", "", "the node's namespace, a `PATH` or a name of ip-netns(8); this one if not given")
	stateDir := o.String("state-dir", inventory.DefaultStateDir, "where plugins keep state, a `DIR`")
	o.Var(&dirs, "data-dir", "where leases are, a `DIR`; may be given several times")
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	if *all == (*network != "") {
		fmt.Fprintln(errs, "cniblocks cleanup: want either --network NAME or --all; 'cniblocks cleanup --help' explains")
		return misuse
	}
	ns, err := openNS(*path)
	if err != nil {
		return complain(errs, "cleanup", err)
	}
	defer ns.Close()
	node, err := inventory.Read(ctx, inventory.Options{NS: ns, DataDirs: dirs, StateDir: *stateDir, Network: *network})
	if err != nil {
		return complain(errs, "cleanup", err)
	}
	for _, what := range node.Unread {
		fmt.Fprintln(errs, "cniblocks cleanup: not read:", what)
	}
	if *network != "" && !slices.Contains(node.Networks(), *network) {
		return unknownNetwork(errs, "cleanup", *network, node)
	}
	opts := sweep.Options{NS: ns, Found: node, Network: *network, StateDir: *stateDir, Disk: len(dirs) > 0 || isMachines(ns)}
	unlock, err := withoutAgents(opts)
	defer unlock()
	if err != nil && !*dry {
		return complain(errs, "cleanup", err)
	}
	plan, planErr := sweep.Make(opts)
	if planErr != nil {
		return complain(errs, "cleanup", planErr)
	}
	status := carryOut(ctx, plan, *dry, out, errs)
	if len(plan.Steps)+len(plan.Kept) == 0 {
		fmt.Fprintln(out, "nothing of cniblocks is here")
	}
	if err != nil {
		return complain(errs, "cleanup", fmt.Errorf("this is what would go, but not yet: %w", err))
	}
	if len(node.Unread) > 0 {
		return failed
	}
	return status
}

// withoutAgents keeps the agents away whose networks are to go from this node, until unlock is called. The error names
// those that run.
func withoutAgents(o sweep.Options) (unlock func(), err error) {
	var undo []func()
	var errs []error
	for _, d := range o.Found.State {
		if (o.Network == "" || d.Network == o.Network) && (o.Disk || d.Here) {
			end, err := agent.Exclude(o.StateDir, d.Network)
			if errs = append(errs, err); err == nil {
				undo = append(undo, end)
			}
		}
	}
	return func() {
		for _, end := range undo {
			end()
		}
	}, errors.Join(errs...)
}

// carryOut takes the steps, or only says them.
func carryOut(ctx context.Context, plan sweep.Plan, dry bool, out, errs io.Writer) int {
	kind, name := 0, 0
	for _, s := range plan.Steps {
		kind, name = max(kind, len(s.Kind)), max(name, min(len(s.Name), 20))
	}
	say := func(verb string, s sweep.Step) {
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%s  %-*s  %-*s  %s", verb, kind, s.Kind, name, s.Name, s.Note), " "))
	}
	bad := 0
	if dry {
		for _, s := range plan.Steps {
			say("would remove", s)
		}
	} else {
		_ = plan.Run(ctx, func(s sweep.Step, err error) {
			if err != nil {
				bad++
				fmt.Fprintf(errs, "FAILED   %s %s: %v\n", s.Kind, s.Name, err)
				return
			}
			say("removed", s)
		})
	}
	for _, k := range plan.Kept {
		fmt.Fprintf(out, "kept     %s %s: %s\n", k.Kind, k.Name, k.Why)
	}
	if bad > 0 {
		fmt.Fprintf(errs, "cniblocks cleanup: %d of %d could not be removed; mend what is said above, and run it again\n", bad, len(plan.Steps))
		return failed
	}
	return 0
}
