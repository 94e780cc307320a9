//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

const overlayText = `Usage: cniblocks overlay up|down --conf FILE [OPTIONS]

up applies the peers of every overlay and host-gw in a conflist to this node: what is missing is added, what is no longer
wanted goes, what others removed is put back. It may be called at any time, and writes nothing when all is right.
down removes what up and the plugins made for the node: devices, routes, SNAT, state. Pods stay as they are. Where an agent
keeps the network both refuse.

  sudo cniblocks overlay up --conf /etc/cni/net.d/10-pods.conflist
`

// overlayCommand applies the peers file without a pod.
func overlayCommand(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("overlay", overlayText)
	path := o.String("conf", "", "`FILE` with the conflist or netconf; needed")
	in := o.String("netns", "", "`PATH` or name of the node's network namespace; default: this one")
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if len(words) == 0 || words[0] != "up" && words[0] != "down" || *path == "" {
		fmt.Fprintln(errs, "cniblocks overlay: want 'up' or 'down', and --conf FILE; 'cniblocks overlay --help' explains")
		return misuse
	}
	config, err := os.ReadFile(*path)
	if err != nil {
		return complain(errs, "overlay", err)
	}
	ns, err := openNS(*in)
	if err != nil {
		return complain(errs, "overlay", err)
	}
	defer ns.Close()
	unlock, err := withoutAgent(config, words[0] == "up")
	defer unlock()
	if err != nil {
		return complain(errs, "overlay "+words[0], err)
	}
	if words[0] == "down" {
		if err := overlay.Down(ctx, ns, config); err != nil {
			return complain(errs, "overlay down", err)
		}
		fmt.Fprintln(out, "the overlay is gone from this node")
		return 0
	}
	reports, err := overlay.Up(ctx, ns, config)
	for _, r := range reports {
		fmt.Fprintf(out, "%s: %s, this machine is %q, MTU for pods %d\n", r.Network, r.Encap, r.Self, r.MTU)
		for _, w := range r.Warnings {
			fmt.Fprintln(errs, "warning:", w)
		}
	}
	if err != nil {
		return complain(errs, "overlay up", err)
	}
	return 0
}

// withoutAgent keeps the agent of the configuration's network away until unlock is called. The error names one that runs. A
// plugin that states no peers has them from the agent, so that there is nothing to bring up.
func withoutAgent(config []byte, up bool) (unlock func(), err error) {
	type plugin struct {
		StateDir, PeersFile string
		Peers               json.RawMessage
	}
	var conf struct {
		Name string
		plugin
		Plugins []plugin
	}
	_ = json.Unmarshal(config, &conf) // what is wrong with it is said by who reads it
	var dirs []string
	for _, p := range append(conf.Plugins, conf.plugin) {
		if !up || p.PeersFile != "" || p.Peers != nil {
			dirs = append(dirs, p.StateDir)
		}
	}
	slices.Sort(dirs)
	var undo []func()
	for _, dir := range slices.Compact(dirs) {
		var end func()
		if end, err = agent.Exclude(dir, conf.Name); err != nil {
			break
		}
		undo = append(undo, end)
	}
	return func() {
		for _, end := range undo {
			end()
		}
	}, err
}
