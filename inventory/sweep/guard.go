//go:build linux

package sweep

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/portmap"
	"github.com/cniblocks/cniblocks/shape"
	"github.com/cniblocks/cniblocks/spoof"
)

// guards removes the entries of macspoofchk, of interfaces that are gone too.
func (s *sweeper) guards() {
	count := map[string]int{}
	var order []string
	for _, g := range s.Found.Guards {
		if g.Owner != inventory.Ours || !s.wants(g.Network) {
			continue
		}
		if count[g.Network] == 0 {
			order = append(order, g.Network)
		}
		count[g.Network]++
	}
	for _, network := range order {
		s.add(Step{Network: network, Kind: "spoof guards", Name: network, Note: "of " + plural(count[network], "interface"),
			do: func(ctx context.Context) error { return spoof.Retain(ctx, s.NS, link.AliasPrefix(network), nil) }})
	}
	if len(order) == 0 && s.Found.GuardTable && s.only() {
		s.add(Step{Network: s.Network, Kind: "spoof guards", Name: "table bridge " + mark.Word, Note: "without entries",
			do: func(ctx context.Context) error { return spoof.Retain(ctx, s.NS, link.AliasPrefix(s.Network), nil) }})
	}
}

// rates removes the devices that limit what pods send. What limits what they receive goes with the host ends.
func (s *sweeper) rates() {
	for _, r := range s.Found.Rates {
		if r.Owner != inventory.Ours || r.Helper == "" || !s.wants(r.Network) {
			continue
		}
		note := "of " + r.Device
		if r.Device == "" {
			note = "of a pod that is gone"
		}
		s.add(Step{Network: r.Network, Kind: "rate limit", Name: r.Helper, Note: note,
			do: func(ctx context.Context) error { return shape.Retain(ctx, s.NS, link.AliasPrefix(r.Network), nil) }})
	}
}

// hostPorts removes those of pods, of interfaces that are gone too.
func (s *sweeper) hostPorts() {
	count := map[string]int{}
	for _, p := range s.Found.HostPorts {
		if s.wants(p.Network) {
			count[p.Network]++
		}
	}
	for _, network := range slices.Sorted(maps.Keys(count)) {
		s.add(Step{Network: network, Kind: "host ports", Name: network, Note: plural(count[network], "port"), do: func(ctx context.Context) error {
			prefix := link.AliasPrefix(network)
			return errors.Join(portmap.Table{NS: s.NS}.Retain(ctx, prefix, nil), portmap.IPTables{NS: s.NS}.Retain(ctx, prefix, nil))
		}})
	}
}

// hidden removes the rules about gateways outside of their subnet with their addresses.
func (s *sweeper) hidden() {
	var removed []string
	for _, h := range s.Found.Hidden {
		i := slices.IndexFunc(s.Found.Bridges, func(b inventory.Bridge) bool { return b.Name == h.Device })
		d := slices.IndexFunc(s.Found.Devices, func(d inventory.Device) bool { return d.Name == h.Device })
		lost := i < 0 && d < 0
		device := i >= 0 && s.gone[s.Found.Bridges[i].Index] || d >= 0 && s.gone[s.Found.Devices[d].Index]
		address := slices.ContainsFunc(s.plan.Steps, func(t Step) bool { return t.Kind == "address" && t.Name == h.Addr.String()+"/32" })
		if device || address || lost {
			removed = append(removed, h.Addr.String()+" of "+h.Device)
		}
	}
	if len(removed) > 0 {
		s.add(Step{Network: s.Network, Kind: "ARP rules", Name: "table arp " + mark.Word, Note: strings.Join(removed, ", "),
			do: func(ctx context.Context) error { return bridge.SweepARP(ctx, s.NS) }})
	}
}
