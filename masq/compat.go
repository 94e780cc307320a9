//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// compat is a store in a table of nftables that iptables-nft keeps. It reads and writes as that program does, without it.
type compat struct {
	shape
	ns *netns.NS
	f  family
}

func (s compat) at() nft.Table { return nft.Table{Family: s.f.proto(), Name: s.table} }

// snapshot is what a reading finds, with what a change needs.
type snapshot struct {
	chains
	jump, link []nft.Rule
}

func (s compat) read(_ context.Context, network string) (chains, error) {
	c, err := nft.Open(s.ns)
	if err != nil {
		return chains{}, err
	}
	snap, err := s.look(c, network)
	return snap.chains, err
}

func (s compat) look(c *nft.Conn, network string) (snapshot, error) {
	name := mark.Chain(network)
	snap := snapshot{chains: chains{network: network}}
	answers, err := c.Query(nft.GetChain(s.at(), s.trunk), nft.GetChain(s.at(), name), nft.DumpRules(s.at(), name))
	if err != nil {
		return snap, err
	}
	for _, a := range answers[:2] {
		if a.Err != nil && !errors.Is(a.Err, fs.ErrNotExist) {
			return snap, fmt.Errorf("table %s: %w", s.at().Title(), a.Err)
		}
	}
	if snap.trunk, snap.exists = answers[0].Err == nil, answers[1].Err == nil; !snap.trunk && !snap.exists {
		return snap, nil
	}
	for _, r := range answers[2].Rules(s.at().Family) {
		snap.rules = append(snap.rules, xtables.Match(r.Compat()))
	}
	return snap, s.lookUp(c, name, &snap)
}

// lookUp counts the jumps.
func (s compat) lookUp(c *nft.Conn, name string, snap *snapshot) error {
	trunk, err := c.Rules(s.at(), s.trunk)
	if err != nil {
		return err
	}
	for _, r := range trunk {
		if r.Exprs.Jumps() == name {
			snap.link = append(snap.link, r)
		} else {
			snap.others++
		}
	}
	base, err := c.Rules(s.at(), s.base)
	if err != nil {
		return err
	}
	for _, r := range base {
		if r.Exprs.Jumps() == s.trunk {
			snap.jump = append(snap.jump, r)
		}
	}
	snap.links, snap.jumps = len(snap.link), len(snap.jump)
	return nil
}

func (s compat) apply(ctx context.Context, network string, target func(half) half) error {
	c, err := nft.Open(s.ns)
	if err != nil {
		return err
	}
	return c.Update(ctx, func(b *nft.Batch) error {
		snap, err := s.look(c, network)
		if err != nil {
			return err
		}
		want := target(s.shape.read(network, snap.rules))
		switch {
		case s.right(snap.chains, want):
		case want.empty():
			s.remove(b, network, snap)
		default:
			s.put(b, network, snap, want)
		}
		return nil
	})
}

func (s compat) put(b *nft.Batch, network string, snap snapshot, want half) {
	name := mark.Chain(network)
	b.AddChain(nft.Chain{Table: s.at(), Name: s.trunk})
	b.AddChain(nft.Chain{Table: s.at(), Name: name})
	b.FlushChain(s.at(), name)
	for _, m := range s.write(network, want) {
		b.AppendRule(s.rule(name, m))
	}
	if len(snap.link) == 0 {
		b.AppendRule(s.rule(s.trunk, xtables.Match{Comment: mark.Comment(network), Target: name}))
	}
	if len(snap.jump) == 0 {
		b.InsertRule(s.rule(s.base, xtables.Match{Comment: mark.Word, Target: s.trunk}))
	}
	deleteRules(b, snap.link[min(1, len(snap.link)):])
	deleteRules(b, snap.jump[min(1, len(snap.jump)):])
}

func (s compat) rule(chain string, m xtables.Match) nft.Rule {
	return nft.Rule{Table: s.at(), Chain: chain, Exprs: nft.Compat(m).Exprs()}
}

func (s compat) remove(b *nft.Batch, network string, snap snapshot) {
	deleteRules(b, snap.link)
	if snap.exists {
		b.DelChain(s.at(), mark.Chain(network))
	}
	if snap.trunk && snap.others == 0 {
		deleteRules(b, snap.jump)
		b.DelChain(s.at(), s.trunk)
	}
}

func deleteRules(b *nft.Batch, rules []nft.Rule) {
	for _, r := range rules {
		b.DelRule(r)
	}
}
