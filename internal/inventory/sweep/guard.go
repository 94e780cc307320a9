//go:build linux

package sweep

import (
	"context"

	"github.com/cniblocks/cniblocks/internal/inventory"
	"github.com/cniblocks/cniblocks/spoof"
	"github.com/cniblocks/cniblocks/veth"
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
			do: func(ctx context.Context) error { return spoof.Retain(ctx, s.NS, veth.AliasPrefix(network), nil) }})
	}
	if len(order) == 0 && s.Found.GuardTable && s.only() {
		s.add(Step{Network: s.Network, Kind: "spoof guards", Name: "table bridge cniblocks", Note: "without entries",
			do: func(ctx context.Context) error { return spoof.Retain(ctx, s.NS, veth.AliasPrefix(s.Network), nil) }})
	}
}
