//go:build linux

// Package sweep takes from a node what bears the marks of this library, and nothing else.
//
// [Make] turns what an inventory found into a [Plan] of steps, which can be shown before anything happens; [Plan.Run]
// carries them out. Devices go before the addresses that they bear return to a pool: if one cannot be removed, the leases
// stay. What was kept, and why, is in the plan too.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Step is one thing to be removed.
type Step struct {
	Network string `json:"network,omitempty"`
	Kind    string `json:"kind"` // "pod interface", "bridge", ...
	Name    string `json:"name"`
	Note    string `json:"note,omitempty"` // whose it is, or where

	device bool // pods' packets or addresses depend on it: what comes later needs its success
	last   bool // to be skipped when a device could not be removed
	do     func(context.Context) error
}

// Kept is something that stays although one might expect it to go.
type Kept struct {
	Network string `json:"network,omitempty"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Why     string `json:"why"`
}

// Plan is what will happen, in order.
type Plan struct {
	Steps []Step `json:"steps"`
	Kept  []Kept `json:"kept"`
}

// Options say what to remove. NS is the namespace that Found was read from.
type Options struct {
	NS    *netns.NS
	Found *inventory.Node
	// Network is the one whose objects go; empty: those of all networks.
	Network string
	// Disk: the directories of leases and state belong to this namespace. Otherwise only the leases of interfaces that are
	// removed go, and networks that are known by directories alone are left.
	Disk bool
	// StateDir is where plugins keep state; "": that of package inventory.
	StateDir string
}

// ErrSkipped is the error of a step that was not tried because a device is still there.
var ErrSkipped = errors.New("not tried, since a device could not be removed before")

// Make makes a plan. It changes nothing.
func Make(o Options) (Plan, error) {
	c, err := rtnl.Open(o.NS)
	if err != nil {
		return Plan{}, err
	}
	if o.StateDir == "" {
		o.StateDir = inventory.DefaultStateDir
	}
	s := &sweeper{Options: o, c: c, gone: map[int]bool{}}
	s.attachments()
	s.guards()
	s.rates()
	s.hostPorts()
	s.devices()
	s.bridges()
	if err := s.addrs(); err != nil {
		return Plan{}, err
	}
	if err := s.routes(); err != nil {
		return Plan{}, err
	}
	s.hidden()
	s.firewall()
	s.leases()
	s.records()
	s.state()
	return s.plan, nil
}

// Run takes the steps, goes on after an error, and returns all errors. Each step is reported as it ends. What went
// meanwhile counts as removed.
func (p Plan) Run(ctx context.Context, report func(Step, error)) error {
	var errs []error
	stuck := false
	for _, s := range p.Steps {
		err := ErrSkipped
		if !stuck || !s.last {
			err = s.do(ctx)
		}
		stuck = stuck || s.device && err != nil
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.Kind, s.Name, err))
		}
		report(s, err)
	}
	return errors.Join(errs...)
}

type sweeper struct {
	Options
	c    *rtnl.Conn
	plan Plan
	gone map[int]bool // indexes of links that go
}

func (s *sweeper) add(step Step) { s.plan.Steps = append(s.plan.Steps, step) }

func (s *sweeper) keep(network, kind, name, why string, a ...any) {
	s.plan.Kept = append(s.plan.Kept, Kept{network, kind, name, fmt.Sprintf(why, a...)})
}

// wants reports whether objects of a network go.
func (s *sweeper) wants(network string) bool { return s.Network == "" || s.Network == network }

// only reports whether there is no other network of ours that an object without a name could be of.
func (s *sweeper) only() bool {
	others := slices.DeleteFunc(s.Found.OurNetworks(), func(name string) bool { return name == s.Network })
	return s.Network == "" || len(others) == 0
}

func (s *sweeper) deleteLink(index int) func(context.Context) error {
	s.gone[index] = true
	return s.send(rtnl.DelLinkIndex(index))
}

// send carries out a message; what is not there any more is fine.
func (s *sweeper) send(m *rtnl.Msg) func(context.Context) error {
	return func(context.Context) error { return rtnl.Except(s.c.Do(m), fs.ErrNotExist) }
}

func (s *sweeper) attachments() {
	for _, a := range s.Found.Attachments {
		switch {
		case a.Owner == inventory.Ours && s.wants(a.Network):
			s.add(Step{Network: a.Network, Kind: "pod interface", Name: a.HostEnd,
				Note: fmt.Sprintf("%s of container %s", a.IfName, a.ContainerID), device: true, do: s.deleteLink(a.Index)})
		case a.Owner == inventory.Reference && s.Network != "" && a.Network == s.Network:
			s.keep(a.Network, "pod interface", a.HostEnd, "the reference plugin made it for container %s; a DEL of ours removes it too", a.ContainerID)
		}
	}
}

func (s *sweeper) devices() {
	for _, d := range s.Found.Devices {
		if d.Owner != inventory.Ours || !slices.ContainsFunc(d.Networks, s.wants) {
			continue
		}
		note, network := d.Kind, d.Networks[0]
		if d.VLAN != 0 {
			note = fmt.Sprintf("the node's foot in VLAN %d of %s", d.VLAN, d.Bridge)
		}
		rest := slices.DeleteFunc(slices.Clone(d.Networks), s.wants)
		if len(rest) > 0 {
			labels := make([]string, len(rest))
			for i, network := range rest {
				labels[i] = link.Label(network)
			}
			alias := link.Root + strings.Join(labels, "+")
			s.add(Step{Network: s.Network, Kind: "share of device", Name: d.Name, Note: "which stays for " + strings.Join(rest, ", "),
				do: s.send(rtnl.SetLink(rtnl.Set{Index: d.Index, Alias: alias}))})
			continue
		}
		s.gone[d.Far] = true
		s.add(Step{Network: network, Kind: "device", Name: d.Name, Note: note, device: true, do: s.deleteLink(d.Index)})
	}
}

func (s *sweeper) bridges() {
	for _, b := range s.Found.Bridges {
		if b.Owner != inventory.Ours || !s.wantsBridge(b) {
			continue
		}
		if ports := s.portsLeft(b.Name); len(ports) > 0 {
			s.keep(b.Network, "bridge", b.Name, "it has other ports: %s", strings.Join(ports, ", "))
			continue
		}
		s.add(Step{Network: b.Network, Kind: "bridge", Name: b.Name, device: true, last: true, do: s.deleteLink(b.Index)})
	}
}

// wantsBridge: a bridge goes with the network that it was made for, or with one that used it after that was cleaned up. One
// whose maker was killed before it said for whom goes with the only network.
func (s *sweeper) wantsBridge(b inventory.Bridge) bool {
	if s.wants(b.Network) || b.Network == "" && s.only() {
		return true
	}
	used, alive := false, false
	for _, a := range s.Found.Attachments {
		used = used || a.Bridge == b.Name && a.Network == s.Network && a.Owner == inventory.Ours
		alive = alive || a.Network == b.Network
	}
	for _, p := range s.Found.SNAT {
		alive = alive || p.Network == b.Network
	}
	for _, d := range s.Found.LeaseDirs {
		alive = alive || d.Network == b.Network
	}
	return used && !alive
}

func (s *sweeper) portsLeft(bridge string) (names []string) {
	for _, a := range s.Found.Attachments {
		if a.Bridge == bridge && !s.gone[a.Index] {
			names = append(names, a.HostEnd)
		}
	}
	for _, p := range s.Found.Ports {
		if p.Bridge == bridge && !s.gone[p.Index] {
			names = append(names, p.Name)
		}
	}
	for _, d := range s.Found.Devices {
		if d.Bridge == bridge && !s.gone[d.Index] {
			names = append(names, d.Name)
		}
	}
	return names
}
