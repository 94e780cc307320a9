//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// Forward lets pods through a FORWARD policy that drops, as Docker sets it. An accept elsewhere does not help there, so
// the rules go into that very chain: FORWARD jumps to CNIB-FORWARD before all else, and that to a chain for each network,
// which accepts what the network's addresses send, and what answers them. Where the policy accepts, no rule is made.
//
// The table of iptables-nft is read and written over netlink, in the form of that program; the legacy table is read from
// the kernel and written by iptables-legacy-restore.
type Forward struct {
	NS *netns.NS

	known *walls // that [NFT.CheckForward] found; nil: to be asked for
}

// walls are the families whose chain FORWARD of iptables-nft drops.
type walls struct{ v4, v6 bool }

func (w walls) has(f family) bool { return f == v4 && w.v4 || f == v6 && w.v6 }

// Ensure makes the sources, and the pods if the network has no ranges, pass wherever a FORWARD policy drops. It only adds;
// see Retain and Forget. Where no policy drops it costs one read of the kernel.
func (w Forward) Ensure(ctx context.Context, network string, sources []inet.Range, pods ...Pod) error {
	p := Policy{Network: network, Sources: sources, Pods: pods}
	if err := p.validate(); err != nil {
		return err
	}
	return w.eachWall(ctx, p, func(s chains.Store, want half) error {
		c, err := s.Read(ctx, network)
		if err != nil || len(filterShape().faults(network, c, want)) == 0 {
			return err
		}
		return s.Apply(ctx, network, filterShape().change(network, func(have half) half { return have.grow(want) }))
	})
}

// Check returns an error that says which rule is missing where a FORWARD policy drops.
func (w Forward) Check(ctx context.Context, network string, sources []inet.Range, pods ...Pod) error {
	p := Policy{Network: network, Sources: sources, Pods: pods}
	if err := p.validate(); err != nil {
		return err
	}
	return w.eachWall(ctx, p, func(s chains.Store, want half) error {
		c, err := s.Read(ctx, network)
		if wrong := filterShape().faults(network, c, want); err == nil && len(wrong) > 0 {
			err = fmt.Errorf("the FORWARD policy is DROP, and %s", strings.Join(wrong, "; "))
		}
		return err
	})
}

// eachWall calls do for every chain FORWARD that drops, in the families that have sources.
func (w Forward) eachWall(ctx context.Context, p Policy, do func(chains.Store, half) error) error {
	drops, err := w.nftDrops()
	if err != nil {
		return w.fail(p.Network, err)
	}
	var errs []error
	for _, f := range families {
		want := p.half(f)
		want.except = nil
		if want.empty() {
			continue
		}
		if drops.has(f) {
			errs = append(errs, w.fail(p.Network, do(filterShape().NFT(w.NS, xtables.Family(f)), want)))
		}
		legacy, there, err := w.legacyWall(ctx, f)
		if err == nil && there {
			err = do(legacy, want)
		}
		errs = append(errs, w.fail(p.Network, err))
	}
	return errors.Join(errs...)
}

// nftDrops asks for the policy of FORWARD in iptables-nft's tables, in one write, unless that is known.
func (w Forward) nftDrops() (walls, error) {
	if w.known != nil {
		return *w.known, nil
	}
	c, err := nft.Open(w.NS)
	if nft.Missing(err) {
		return walls{}, nil
	}
	if err != nil {
		return walls{}, err
	}
	answers, err := c.Query(w.questions()...)
	if err != nil {
		return walls{}, err
	}
	return w.drops(answers)
}

// questions ask for the chains, in the order of families.
func (w Forward) questions() (reqs []nft.Request) {
	for _, f := range families {
		reqs = append(reqs, nft.GetChain(nft.Table{Family: f.proto(), Name: filterShape().Table}, filterShape().Base))
	}
	return reqs
}

// drops reads the answers to the questions.
func (w Forward) drops(answers []nft.Answer) (found walls, err error) {
	for i, f := range families {
		if err := answers[i].Err; err != nil && !errors.Is(err, fs.ErrNotExist) && !nft.Missing(err) {
			return found, err
		}
		for _, chain := range answers[i].Chains(f.proto()) {
			drop := chain.Hook.Type == "filter" && chain.Hook.Num == nft.Forward && chain.Policy == nft.Drop
			if f == v4 {
				found.v4 = drop
			} else {
				found.v6 = drop
			}
		}
	}
	return found, nil
}

// legacyWall is the store of the legacy table, if that drops.
func (w Forward) legacyWall(ctx context.Context, f family) (chains.Store, bool, error) {
	s := filterShape()
	table, err := xtables.ReadLegacy(w.NS, xtables.Family(f), s.Table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil || !table.ForwardDrops() {
		return nil, false, err
	}
	p, err := xtables.FindLegacy(ctx, xtables.Family(f))
	if err != nil {
		return nil, false, fmt.Errorf("the FORWARD policy of the legacy %s table is DROP, and only the program can change that table: %w", f, err)
	}
	return s.By(w.NS, p), true, nil
}

// Retain takes away what the sources do not name. Pods stay whose owner is among the owners.
func (w Forward) Retain(ctx context.Context, network string, sources []inet.Range, owners ...string) error {
	if err := w.Ensure(ctx, network, sources); err != nil {
		return err
	}
	p, live := Policy{Network: network, Sources: sources}, labels(owners)
	return w.each(ctx, network, func(f family, have half) half {
		want := p.half(f)
		want.except = nil
		return have.shrink(want, live)
	})
}

// Forget removes the rules of an owner's pods. It succeeds if there are none.
func (w Forward) Forget(ctx context.Context, network, owner string) error {
	return w.each(ctx, network, func(_ family, have half) half { return have.without(mark.Name(owner)) })
}

// Remove removes the network's rules, and with the last network the jump to them. It succeeds if there are none.
func (w Forward) Remove(ctx context.Context, network string) error {
	return w.each(ctx, network, func(family, half) half { return half{} })
}

// each shrinks the network wherever it has a chain.
func (w Forward) each(ctx context.Context, network string, want func(family, half) half) error {
	var errs []error
	for _, f := range families {
		change := filterShape().change(network, func(have half) half { return want(f, have) })
		errs = append(errs, w.fail(network, filterShape().Each(ctx, w.NS, xtables.Family(f), network, change)))
	}
	return errors.Join(errs...)
}

func (w Forward) fail(network string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("forwarding of network %q: %w", network, err)
}

// Blocked says, one sentence each, which chains of other programs stop forwarded packets and are not ours to open: base
// chains of nftables at the forward hook that drop by policy or by an unconditional last rule, other than chain FORWARD
// of iptables. Firewalls such as firewalld are to be told themselves.
func (w Forward) Blocked(context.Context) ([]string, error) {
	c, err := nft.Open(w.NS)
	if nft.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range []uint8{nft.INet, nft.IPv4, nft.IPv6} {
		list, err := c.Chains(f)
		if nft.Missing(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, chain := range list {
			if chain.Hook.Type != "filter" || chain.Hook.Num != nft.Forward || chain.Table.Name == mark.Word ||
				f != nft.INet && chain.Table.Name == "filter" && chain.Name == "FORWARD" {
				continue
			}
			how, err := refusal(c, chain)
			if err != nil {
				return nil, err
			}
			if how != "" {
				out = append(out, fmt.Sprintf("chain %s of nftables table %s, which belongs to another program, %s: allow the pods' addresses there",
					chain.Name, chain.Table.Title(), how))
			}
		}
	}
	return out, nil
}

// refusal is how a chain stops what it does not know, "" if it does not.
func refusal(c *nft.Conn, chain nft.Chain) (string, error) {
	if chain.Policy == nft.Drop {
		return "has the policy drop", nil
	}
	rules, err := c.Rules(chain.Table, chain.Name)
	if err != nil || len(rules) == 0 || !rules[len(rules)-1].Exprs.Refuses() {
		return "", err
	}
	return "ends in a rule that refuses everything", nil
}
