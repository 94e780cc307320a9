//go:build linux

package foreign

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// chain is one in a table of iptables, and the base chain that jumps to it.
type chain struct{ table, base, name string }

// RemoveFlannel removes the firewall rules that flannel left, in either packet filter: its chains of iptables with the
// jumps to them, and its tables of nftables. It succeeds if there are none.
func RemoveFlannel(ctx context.Context, ns *netns.NS) error {
	err := flannelNFT(ctx, ns)
	if nft.Missing(err) {
		err = nil
	}
	errs := []error{err}
	for _, f := range families {
		for _, c := range flannelChains {
			errs = append(errs, c.legacy(ctx, ns, f))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove flannel's firewall rules: %w", err)
	}
	return nil
}

func flannelNFT(ctx context.Context, ns *netns.NS) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	return c.Update(ctx, func(b *nft.Batch) error {
		for _, t := range flannelTables {
			chains, err := c.Chains(t.Family)
			if err != nil {
				return err
			}
			for _, ch := range chains {
				if ch.Table == t {
					b.DelTable(t)
					break
				}
			}
		}
		for _, f := range families {
			for _, fc := range flannelChains {
				if err := fc.remove(c, b, nft.Table{Family: proto(f), Name: fc.table}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c chain) remove(conn *nft.Conn, b *nft.Batch, t nft.Table) error {
	if _, err := conn.Chain(t, c.name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	rules, err := conn.Rules(t, c.base)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Exprs.Jumps() == c.name {
			b.DelRule(r)
		}
	}
	b.FlushChain(t, c.name)
	b.DelChain(t, c.name)
	return nil
}

func (c chain) legacy(ctx context.Context, ns *netns.NS, f xtables.Family) error {
	p, there, err := xtables.FindMentioned(ctx, ns, f, c.table, c.name)
	if err != nil || !there {
		return err
	}
	rs, err := p.Save(ctx, ns, c.table)
	if err != nil {
		return err
	}
	lines := xtables.Deletions(c.base, rs.Jumps(c.base, c.name))
	if _, there := rs[c.name]; there {
		lines = append(lines, "-F "+c.name, "-X "+c.name)
	}
	return p.Restore(ctx, ns, c.table, lines)
}
