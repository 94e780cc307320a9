//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
)

// List implements [Backend].
func (b IPTables) List(ctx context.Context) ([]Policy, error) {
	found := map[string]map[family]half{}
	var order []string
	add := func(f family, network string, rules []xtables.Match) {
		if found[network] == nil {
			found[network] = map[family]half{}
			order = append(order, network)
		}
		found[network][f] = found[network][f].grow(readNAT(network, rules))
	}
	for _, f := range families {
		if err := errors.Join(b.listNFT(f, add), b.listLegacy(ctx, f, add)); err != nil {
			return nil, fmt.Errorf("SNAT by iptables, %s: %w", f, err)
		}
	}
	var out []Policy
	for _, network := range order {
		out = append(out, policyOf(network, found[network]))
	}
	return out, nil
}

func (b IPTables) listNFT(f family, add func(family, string, []xtables.Match)) error {
	c, err := nft.Open(b.NS)
	if nft.Missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	at := b.nft(f).at()
	trunk, err := c.Rules(at, mark.Postrouting)
	if err != nil && !nft.Missing(err) {
		return err
	}
	for _, link := range trunk {
		network, ok := mark.Network(link.Compat().Comment)
		if !ok {
			continue
		}
		rules, err := c.Rules(at, link.Exprs.Jumps())
		if err != nil {
			return err
		}
		var matches []xtables.Match
		for _, r := range rules {
			matches = append(matches, xtables.Match(r.Compat()))
		}
		add(f, network, matches)
	}
	return nil
}

func (b IPTables) listLegacy(ctx context.Context, f family, add func(family, string, []xtables.Match)) error {
	s, ok, err := legacyStore(ctx, b.NS, f, natShape(), mark.Postrouting)
	if err != nil || !ok {
		return err
	}
	rs, err := s.prog.Save(ctx, b.NS, s.table)
	if err != nil {
		return err
	}
	for _, link := range rs[mark.Postrouting].Rules {
		network, ok := mark.Network(link.Comment)
		if !ok {
			continue
		}
		var matches []xtables.Match
		for _, r := range rs[link.Target].Rules {
			matches = append(matches, r.Match)
		}
		add(f, network, matches)
	}
	return nil
}
