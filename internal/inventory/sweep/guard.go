//go:build linux

package sweep

import (
	"context"
	"slices"

	"github.com/cniblocks/cniblocks/internal/inventory"
	"github.com/cniblocks/cniblocks/internal/nft"
)

// guards removes the entries of macspoofchk for interfaces that go, or that are gone.
func (s *sweeper) guards() {
	ends := map[string]bool{}
	for _, a := range s.Found.Attachments {
		ends[a.HostEnd] = s.gone[a.Index]
	}
	var names []string
	for _, g := range s.Found.Guards {
		goes, exists := ends[g.HostEnd]
		if g.Owner == inventory.Ours && (goes || !exists) {
			names = append(names, g.HostEnd)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return
	}
	s.add(Step{Network: s.Network, Kind: "spoof guards", Name: plural(len(names), "interface"),
		do: func(ctx context.Context) error { return s.removeGuards(ctx, names) }})
}

// removeGuards takes the elements out of our sets, and removes the table with the last of them.
func (s *sweeper) removeGuards(ctx context.Context, names []string) error {
	c, err := nft.Open(s.NS)
	if err != nil {
		return err
	}
	table := nft.Table{Family: nft.Bridge, Name: "cniblocks"}
	return c.Update(ctx, func(b *nft.Batch) error {
		sets, err := c.Sets(table)
		if err != nil {
			return err
		}
		left := 0
		for _, set := range sets {
			list, err := c.Elements(table, set.Name)
			if err != nil {
				return err
			}
			n := len(list)
			list = slices.DeleteFunc(list, func(e nft.Element) bool { return !slices.Contains(names, inventory.HostEndOf(e.Key)) })
			left += n - len(list)
			if len(list) > 0 {
				b.DelElements(table, set.Name, list)
			}
		}
		if left == 0 && !b.Empty() {
			*b = nft.Batch{}
			b.DelTable(table)
		}
		return nil
	})
}
