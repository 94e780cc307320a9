//go:build linux

// Package forward lets pods through a FORWARD policy that drops, as Docker sets it. An accept elsewhere does not help there, so
// the rules go into that very chain: FORWARD jumps to CNIB-FORWARD before all else, and that to a chain for each network, which
// accepts what the network's addresses send, and what answers them. Where the policy accepts, no rule is made.
//
// The table of iptables-nft is read and written over netlink, in the form of that program; the legacy table is read from
// the kernel and written by iptables-legacy-restore. Names are fixed: chains CNIB-FORWARD and CNIB- with a hash of the network's
// name; comments "cniblocks <network>". What does not bear them is never changed.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// Passage is the way of pods through the FORWARD policies of a namespace.
type Passage struct {
	NS *netns.NS

	// Drops, if it is not nil, is taken for granted instead of asked for: for one operation that is under way.
	Drops *Drops
}

// Drops are the families whose chain FORWARD of iptables-nft has the policy to drop.
type Drops struct{ IPv4, IPv6 bool }

// Pod is an address of one attachment.
type Pod struct {
	Owner string // names the attachment, unique in the network
	Addr  netip.Addr
}

func shape() sources.Shape { return sources.Shape{Layout: chains.Forward, Write: write, Read: read} }

// write accepts what the pods send, to each other too, and what answers them.
func write(network string, h sources.Set) (rules []xtables.Match) {
	for _, s := range h.Origins(network) {
		rules = append(rules,
			xtables.Match{Src: sources.Pair(s.Range), Comment: s.Comment, Target: "ACCEPT"},
			xtables.Match{Dst: sources.Pair(s.Range), Established: true, Comment: s.Comment, Target: "ACCEPT"})
	}
	return rules
}

func read(network string, rules []xtables.Match) sources.Set {
	h := sources.Set{Pods: map[netip.Addr]string{}}
	for _, r := range rules {
		h.ReadOrigin(network, r)
	}
	h.Ranges = sources.NewRanges(h.Ranges...)
	return h
}

// Ensure makes the ranges, and the pods if the network has none, pass wherever a FORWARD policy drops. It only adds; see
// Retain and Forget. Where no policy drops it costs one read of the kernel.
func (w Passage) Ensure(ctx context.Context, network string, ranges []inet.Range, pods ...Pod) error {
	return w.eachWall(ctx, network, ranges, pods, func(s chains.Store, want sources.Set) error {
		c, err := s.Read(ctx, network)
		if err != nil || len(shape().FaultsOf(network, c, want)) == 0 {
			return err
		}
		return s.Apply(ctx, network, shape().Change(network, func(have sources.Set) sources.Set { return have.Grow(want) }))
	})
}

// Check returns an error that says which rule is missing where a FORWARD policy drops.
func (w Passage) Check(ctx context.Context, network string, ranges []inet.Range, pods ...Pod) error {
	return w.eachWall(ctx, network, ranges, pods, func(s chains.Store, want sources.Set) error {
		c, err := s.Read(ctx, network)
		if wrong := shape().FaultsOf(network, c, want); err == nil && len(wrong) > 0 {
			err = fmt.Errorf("the FORWARD policy is DROP, and %s", strings.Join(wrong, "; "))
		}
		return err
	})
}

// eachWall calls do for every chain FORWARD that drops, in the families that have ranges or pods.
func (w Passage) eachWall(ctx context.Context, network string, ranges []inet.Range, list []Pod, do func(chains.Store, sources.Set) error) error {
	pods := map[netip.Addr]string{}
	for _, p := range list {
		pods[p.Addr] = p.Owner
	}
	if network == "" {
		return errors.New("forwarding: the network has no name")
	}
	if err := sources.Validate(ranges, pods); err != nil {
		return w.fail(network, err)
	}
	drops, err := w.drops()
	if err != nil {
		return w.fail(network, err)
	}
	var errs []error
	for _, f := range inet.Families {
		want := sources.Of(f, ranges, pods)
		if want.Empty() {
			continue
		}
		if f == inet.IPv4 && drops.IPv4 || f == inet.IPv6 && drops.IPv6 {
			errs = append(errs, w.fail(network, do(shape().NFT(w.NS, xtables.Family(f)), want)))
		}
		legacy, there, err := w.legacyWall(ctx, f)
		if err == nil && there {
			err = do(legacy, want)
		}
		errs = append(errs, w.fail(network, err))
	}
	return errors.Join(errs...)
}

// drops asks for the policy of FORWARD in iptables-nft's tables, in one write, unless that is known.
func (w Passage) drops() (Drops, error) {
	if w.Drops != nil {
		return *w.Drops, nil
	}
	c, err := nft.Open(w.NS)
	if nft.Missing(err) {
		return Drops{}, nil
	}
	if err != nil {
		return Drops{}, err
	}
	answers, err := c.Query(chains.AskForward()...)
	if err != nil {
		return Drops{}, err
	}
	v4, v6, err := chains.ForwardDrops(answers)
	return Drops{v4, v6}, err
}

// legacyWall is the store of the legacy table, if that drops.
func (w Passage) legacyWall(ctx context.Context, f inet.Family) (chains.Store, bool, error) {
	s := shape()
	table, err := xtables.ReadLegacy(w.NS, xtables.Family(f), s.Table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil || !table.ForwardDrops() {
		return nil, false, err
	}
	p, err := xtables.FindLegacy(ctx, xtables.Family(f))
	if err != nil {
		return nil, false, fmt.Errorf("the FORWARD policy of the legacy %s table is DROP, and only the program can change that table: %w", f.Title(), err)
	}
	return s.By(w.NS, p), true, nil
}

// Retain takes away what the ranges do not name. Pods stay whose owner is among the owners.
func (w Passage) Retain(ctx context.Context, network string, ranges []inet.Range, owners ...string) error {
	if err := w.Ensure(ctx, network, ranges); err != nil {
		return err
	}
	live := sources.Names(owners)
	return w.each(ctx, network, func(f inet.Family, have sources.Set) sources.Set {
		return have.Shrink(sources.Of(f, ranges, nil), live)
	})
}

// Forget removes the rules of an owner's pods. It succeeds if there are none.
func (w Passage) Forget(ctx context.Context, network, owner string) error {
	return w.each(ctx, network, func(_ inet.Family, have sources.Set) sources.Set { return have.Without(mark.Name(owner)) })
}

// Remove removes the network's rules, and with the last network the jump to them. It succeeds if there are none.
func (w Passage) Remove(ctx context.Context, network string) error {
	return w.each(ctx, network, func(inet.Family, sources.Set) sources.Set { return sources.Set{} })
}

// each shrinks the network wherever it has a chain.
func (w Passage) each(ctx context.Context, network string, want func(inet.Family, sources.Set) sources.Set) error {
	var errs []error
	for _, f := range inet.Families {
		change := shape().Change(network, func(have sources.Set) sources.Set { return want(f, have) })
		errs = append(errs, w.fail(network, shape().Each(ctx, w.NS, xtables.Family(f), network, change)))
	}
	return errors.Join(errs...)
}

func (w Passage) fail(network string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("forwarding of network %q: %w", network, err)
}

// Blocked says, one sentence each, which chains of other programs stop forwarded packets and are not ours to open: base
// chains of nftables at the forward hook that drop by policy or by an unconditional last rule, other than chain FORWARD
// of iptables. Firewalls such as firewalld are to be told themselves.
func (w Passage) Blocked(context.Context) ([]string, error) {
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
