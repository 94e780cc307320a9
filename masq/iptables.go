//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
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

// Name implements [Backend].
func (IPTables) Name() string { return "iptables" }

func (b IPTables) nft(f family) compat { return compat{natShape(), b.NS, f} }

// programs is the store of the installed programs.
func (b IPTables) programs(ctx context.Context, f family) (program, error) {
	find := xtables.Find
	if b.old {
		find = func(f xtables.Family) (xtables.Programs, error) { return xtables.FindLegacy(ctx, f) }
	}
	p, err := find(xtables.Family(f))
	return program{natShape(), b.NS, p}, err
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
			var s program
			if s, err = b.programs(ctx, f); err == nil {
				err = s.apply(ctx, p.Network, func(have half) half { return have.grow(want) })
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
	if want.empty() {
		return nil, nil
	}
	c, err := b.nft(f).read(ctx, network)
	if err != nil && !nft.Missing(err) {
		return nil, err
	}
	wrong := natShape().faults(c, want)
	if len(wrong) == 0 {
		return nil, nil
	}
	s, ok, err := b.legacy(ctx, f, network)
	if err != nil || !ok {
		return wrong, err
	}
	if c, err = s.read(ctx, network); err != nil {
		return nil, err
	}
	return natShape().faults(c, want), nil
}

// legacy returns the store of the legacy table if there is something of the network in it.
func (b IPTables) legacy(ctx context.Context, f family, network string) (program, bool, error) {
	return legacyStore(ctx, b.NS, f, natShape(), mark.Chain(network))
}

func legacyStore(ctx context.Context, ns *netns.NS, f family, s shape, mentions string) (program, bool, error) {
	table, err := xtables.ReadLegacy(ns, xtables.Family(f), s.table)
	if errors.Is(err, fs.ErrNotExist) {
		return program{}, false, nil
	}
	if err != nil || !table.Mentions(mentions) {
		return program{}, false, err
	}
	p, err := xtables.FindLegacy(ctx, xtables.Family(f))
	return program{s, ns, p}, err == nil, err
}

// Retain implements [Backend].
func (b IPTables) Retain(ctx context.Context, p Policy, owners []string) error {
	if err := b.Ensure(ctx, p); err != nil {
		return err
	}
	live := labels(owners)
	return b.each(ctx, p.Network, func(f family, have half) half { return have.shrink(p.half(f), live) })
}

// Forget implements [Backend].
func (b IPTables) Forget(ctx context.Context, network, owner string) error {
	return b.each(ctx, network, func(_ family, have half) half { return have.without(mark.Name(owner)) })
}

// Remove implements [Backend].
func (b IPTables) Remove(ctx context.Context, network string) error {
	return b.each(ctx, network, func(family, half) half { return half{} })
}

// each changes the network wherever it is in place, in every family and packet filter.
func (b IPTables) each(ctx context.Context, network string, target func(family, half) half) error {
	var errs []error
	for _, f := range families {
		change := func(have half) half { return target(f, have).orNothing() }
		errs = append(errs, b.fail(network, f, b.eachStore(ctx, f, network, change)))
	}
	return errors.Join(errs...)
}

func (b IPTables) eachStore(ctx context.Context, f family, network string, change func(half) half) error {
	var errs []error
	c, err := b.nft(f).read(ctx, network)
	if err != nil && !nft.Missing(err) {
		errs = append(errs, err)
	}
	if c.exists || c.links > 0 {
		errs = append(errs, b.nft(f).apply(ctx, network, change))
	}
	s, ok, err := b.legacy(ctx, f, network)
	if ok {
		err = s.apply(ctx, network, change)
	}
	return errors.Join(append(errs, err)...)
}

// orNothing drops what no rule needs.
func (h half) orNothing() half {
	if h.empty() {
		return half{}
	}
	return h
}

func (b IPTables) fail(network string, f family, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SNAT of network %q by iptables, %s: %w", network, f, err)
}
