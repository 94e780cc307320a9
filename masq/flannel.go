//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// foreign is a chain of flannel's in a table of iptables, and the base chain that jumps to it.
type foreign struct{ table, base, chain string }

func flannelChains() []foreign {
	return []foreign{{"nat", "POSTROUTING", "FLANNEL-POSTRTG"}, {"filter", "FORWARD", "FLANNEL-FWD"}}
}

// flannelTables are those that flannel has with EnableNFTables.
func flannelTables() []nft.Table {
	return []nft.Table{{Family: nft.IPv4, Name: "flannel-ipv4"}, {Family: nft.IPv6, Name: "flannel-ipv6"}}
}

// RemoveFlannel removes the firewall rules that flannel left, in either packet filter: its chains of iptables with the
// jumps to them, and its tables of nftables. It succeeds if there are none.
func RemoveFlannel(ctx context.Context, ns *netns.NS) error {
	err := flannelNFT(ctx, ns)
	if nft.Missing(err) {
		err = nil
	}
	errs := []error{err}
	for _, f := range families {
		for _, c := range flannelChains() {
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
		for _, t := range flannelTables() {
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
			for _, fc := range flannelChains() {
				if err := fc.remove(c, b, nft.Table{Family: f.proto(), Name: fc.table}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c foreign) remove(conn *nft.Conn, b *nft.Batch, t nft.Table) error {
	if _, err := conn.Chain(t, c.chain); err != nil {
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
		if r.Exprs.Jumps() == c.chain {
			b.DelRule(r)
		}
	}
	b.FlushChain(t, c.chain)
	b.DelChain(t, c.chain)
	return nil
}

func (c foreign) legacy(ctx context.Context, ns *netns.NS, f family) error {
	p, there, err := xtables.FindMentioned(ctx, ns, xtables.Family(f), c.table, c.chain)
	if err != nil || !there {
		return err
	}
	rs, err := p.Save(ctx, ns, c.table)
	if err != nil {
		return err
	}
	lines := xtables.Deletions(c.base, rs.Jumps(c.base, c.chain))
	if _, there := rs[c.chain]; there {
		lines = append(lines, "-F "+c.chain, "-X "+c.chain)
	}
	return p.Restore(ctx, ns, c.table, lines)
}
