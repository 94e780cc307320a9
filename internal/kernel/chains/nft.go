//go:build linux

package chains

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

// inNFT is a store in a table of nftables that iptables-nft keeps.
type inNFT struct {
	Layout
	ns *netns.NS
	at nft.Table
}

// snapshot is what a reading finds, with what a change needs.
type snapshot struct {
	State
	jump, link []nft.Rule
}

func (s inNFT) Read(_ context.Context, network string) (State, error) {
	c, err := nft.Open(s.ns)
	if err != nil {
		return State{}, err
	}
	snap, err := s.look(c, network)
	return snap.State, err
}

func (s inNFT) All(context.Context) (all []Network, err error) {
	c, err := nft.Open(s.ns)
	if err != nil {
		return nil, err
	}
	trunk, err := c.Rules(s.at, s.Trunk)
	if err != nil {
		return nil, err
	}
	for _, link := range trunk {
		name, ok := mark.Network(link.Compat().Comment)
		if !ok {
			continue
		}
		rules, err := c.Rules(s.at, link.Exprs.Jumps())
		if err != nil {
			return nil, err
		}
		n := Network{Name: name}
		for _, r := range rules {
			n.Rules = append(n.Rules, xtables.Match(r.Compat()))
		}
		all = append(all, n)
	}
	return all, nil
}

func (s inNFT) look(c *nft.Conn, network string) (snapshot, error) {
	name := mark.Chain(network)
	var snap snapshot
	answers, err := c.Query(nft.GetChain(s.at, s.Trunk), nft.GetChain(s.at, name), nft.DumpRules(s.at, name))
	if err != nil {
		return snap, err
	}
	for _, a := range answers[:2] {
		if a.Err != nil && !errors.Is(a.Err, fs.ErrNotExist) {
			return snap, fmt.Errorf("table %s: %w", s.at.Title(), a.Err)
		}
	}
	if snap.trunk, snap.Exists = answers[0].Err == nil, answers[1].Err == nil; !snap.trunk && !snap.Exists {
		return snap, nil
	}
	for _, r := range answers[2].Rules(s.at.Family) {
		snap.Rules = append(snap.Rules, xtables.Match(r.Compat()))
	}
	return snap, s.lookUp(c, name, &snap)
}

// lookUp counts the jumps.
func (s inNFT) lookUp(c *nft.Conn, name string, snap *snapshot) error {
	trunk, err := c.Rules(s.at, s.Trunk)
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
	base, err := c.Rules(s.at, s.Base)
	if err != nil {
		return err
	}
	for _, r := range base {
		if r.Exprs.Jumps() == s.Trunk {
			snap.jump = append(snap.jump, r)
		}
	}
	snap.links, snap.jumps = len(snap.link), len(snap.jump)
	return nil
}

func (s inNFT) Apply(ctx context.Context, network string, change func([]xtables.Match) []xtables.Match) error {
	c, err := nft.Open(s.ns)
	if err != nil {
		return err
	}
	return c.Update(ctx, func(b *nft.Batch) error {
		snap, err := s.look(c, network)
		if err != nil {
			return err
		}
		want := change(snap.Rules)
		switch {
		case snap.right(want):
		case len(want) == 0:
			s.remove(b, network, snap)
		default:
			s.put(b, network, snap, want)
		}
		return nil
	})
}

func (s inNFT) put(b *nft.Batch, network string, snap snapshot, want []xtables.Match) {
	name := mark.Chain(network)
	b.AddChain(nft.Chain{Table: s.at, Name: s.Trunk})
	b.AddChain(nft.Chain{Table: s.at, Name: name})
	b.FlushChain(s.at, name)
	for _, m := range want {
		b.AppendRule(s.rule(name, m))
	}
	if len(snap.link) == 0 {
		b.AppendRule(s.rule(s.Trunk, xtables.Match{Comment: mark.Comment(network), Target: name}))
	}
	if len(snap.jump) == 0 {
		b.InsertRule(s.rule(s.Base, xtables.Match{Comment: mark.Word, Target: s.Trunk}))
	}
	deleteRules(b, snap.link[min(1, len(snap.link)):])
	deleteRules(b, snap.jump[min(1, len(snap.jump)):])
}

func (s inNFT) rule(chain string, m xtables.Match) nft.Rule {
	return nft.Rule{Table: s.at, Chain: chain, Exprs: nft.Compat(m).Exprs()}
}

func (s inNFT) remove(b *nft.Batch, network string, snap snapshot) {
	deleteRules(b, snap.link)
	if snap.Exists {
		b.DelChain(s.at, mark.Chain(network))
	}
	if snap.trunk && snap.others == 0 {
		deleteRules(b, snap.jump)
		b.DelChain(s.at, s.Trunk)
	}
}

func deleteRules(b *nft.Batch, rules []nft.Rule) {
	for _, r := range rules {
		b.DelRule(r)
	}
}
