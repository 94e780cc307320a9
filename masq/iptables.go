//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/internal/sources"
	"github.com/cniblocks/cniblocks/netns"
)

// IPTables is the backend that writes through the programs iptables-restore and ip6tables-restore, one process for a
// family, to whichever packet filter they keep. In table nat POSTROUTING jumps to CNIB-POSTROUTING, and that to a chain
// for each network, which returns what is excepted and masquerades what comes from the sources (-m iprange). Where
// iptables-nft keeps the table, all questions and removals go over netlink and start no program.
type IPTables struct {
	NS *netns.NS

	old bool // write to the legacy tables
}

func natShape() sources.Shape {
	return sources.Shape{Layout: chains.NAT, Write: writeNAT, Read: readNAT}
}

func writeNAT(network string, h sources.Set) (rules []xtables.Match) {
	rules = append(rules, xtables.Match{Mark: KubeMark, Comment: mark.Comment(network), Target: "RETURN"})
	for _, r := range h.Except {
		rules = append(rules, xtables.Match{Dst: sources.Pair(r), Comment: mark.Comment(network), Target: "RETURN"})
	}
	for _, s := range h.Origins(network) {
		rules = append(rules, xtables.Match{Src: sources.Pair(s.Range), Comment: s.Comment, Target: "MASQUERADE", Random: true})
	}
	return rules
}

func readNAT(network string, rules []xtables.Match) sources.Set {
	h := sources.Set{Pods: map[netip.Addr]string{}}
	for _, r := range rules {
		h.ReadOrigin(network, r)
		if !r.Src[0].IsValid() && r.Dst[0].IsValid() {
			h.Except = append(h.Except, inet.Range{Start: r.Dst[0], End: r.Dst[1]})
		}
	}
	h.Ranges, h.Except = sources.NewRanges(h.Ranges...), sources.NewRanges(h.Except...)
	return h
}

// Name implements [Backend].
func (IPTables) Name() string { return "iptables" }

// programs is the store of the installed programs.
func (b IPTables) programs(ctx context.Context, f family) (chains.Store, error) {
	find := xtables.Find
	if b.old {
		find = func(f xtables.Family) (xtables.Programs, error) { return xtables.FindLegacy(ctx, f) }
	}
	p, err := find(xtables.Family(f))
	return natShape().By(b.NS, p), err
}

// Ensure implements [Backend].
func (b IPTables) Ensure(ctx context.Context, p Policy) error {
	if err := p.validate(); err != nil {
		return err
	}
	for _, f := range families {
		want := p.half(f)
		wrong, err := b.faults(ctx, f, p.Network, want)
		if err == nil && len(wrong) > 0 {
			var s chains.Store
			if s, err = b.programs(ctx, f); err == nil {
				err = s.Apply(ctx, p.Network, natShape().Change(p.Network, func(have half) half { return have.Grow(want) }))
			}
		}
		if err != nil {
			return b.fail(p.Network, f, err)
		}
	}
	return nil
}

// Check implements [Backend].
func (b IPTables) Check(ctx context.Context, p Policy) error {
	if err := p.validate(); err != nil {
		return err
	}
	var errs []error
	for _, f := range families {
		wrong, err := b.faults(ctx, f, p.Network, p.half(f))
		if err == nil && len(wrong) > 0 {
			err = errors.New(strings.Join(wrong, "; "))
		}
		errs = append(errs, b.fail(p.Network, f, err))
	}
	return errors.Join(errs...)
}

// faults asks iptables-nft's table first, and a program only if there is a legacy one.
func (b IPTables) faults(ctx context.Context, f family, network string, want half) ([]string, error) {
	if want.Empty() {
		return nil, nil
	}
	c, err := natShape().NFT(b.NS, xtables.Family(f)).Read(ctx, network)
	if err != nil && !nft.Missing(err) {
		return nil, err
	}
	wrong := natShape().FaultsOf(network, c, want)
	if len(wrong) == 0 {
		return nil, nil
	}
	s, there, err := natShape().Legacy(ctx, b.NS, xtables.Family(f), mark.Chain(network))
	if err != nil || !there {
		return wrong, err
	}
	if c, err = s.Read(ctx, network); err != nil {
		return nil, err
	}
	return natShape().FaultsOf(network, c, want), nil
}

// Retain implements [Backend].
func (b IPTables) Retain(ctx context.Context, p Policy, owners []string) error {
	if err := b.Ensure(ctx, p); err != nil {
		return err
	}
	live := sources.Names(owners)
	return b.each(ctx, p.Network, func(f family, have half) half { return have.Shrink(p.half(f), live) })
}

// Forget implements [Backend].
func (b IPTables) Forget(ctx context.Context, network, owner string) error {
	return b.each(ctx, network, func(_ family, have half) half { return have.Without(mark.Name(owner)) })
}

// Remove implements [Backend].
func (b IPTables) Remove(ctx context.Context, network string) error {
	return b.each(ctx, network, func(family, half) half { return half{} })
}

// each changes the network wherever it is in place, in every family and packet filter.
func (b IPTables) each(ctx context.Context, network string, target func(family, half) half) error {
	var errs []error
	for _, f := range families {
		change := natShape().Change(network, func(have half) half { return target(f, have) })
		errs = append(errs, b.fail(network, f, natShape().Each(ctx, b.NS, xtables.Family(f), network, change)))
	}
	return errors.Join(errs...)
}

func (b IPTables) fail(network string, f family, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SNAT of network %q by iptables, %s: %w", network, f, err)
}

// List implements [Backend].
func (b IPTables) List(ctx context.Context) ([]Policy, error) {
	found := map[string]map[family]half{}
	var order []string
	for _, f := range families {
		all, err := natShape().NFT(b.NS, xtables.Family(f)).All(ctx)
		if nft.Missing(err) {
			err = nil
		}
		s, there, legacyErr := natShape().Legacy(ctx, b.NS, xtables.Family(f), mark.Postrouting)
		if there {
			var more []chains.Network
			more, legacyErr = s.All(ctx)
			all = append(all, more...)
		}
		if err := errors.Join(err, legacyErr); err != nil {
			return nil, fmt.Errorf("SNAT by iptables, %s: %w", f, err)
		}
		for _, n := range all {
			if found[n.Name] == nil {
				found[n.Name] = map[family]half{}
				order = append(order, n.Name)
			}
			found[n.Name][f] = found[n.Name][f].Grow(readNAT(n.Name, n.Rules))
		}
	}
	var out []Policy
	for _, network := range order {
		out = append(out, policyOf(network, found[network]))
	}
	return out, nil
}
