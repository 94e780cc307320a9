//go:build linux

// Package snat is what the plugins share in masquerading for a network: the choice of the backend, a look before a write,
// the way through a FORWARD policy.
package snat

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer"
)

// Rule is the masquerading of a network. The zero value is that of one without.
type Rule struct {
	ns      *netns.NS
	name    string // of the backend, as configured
	backend masq.Backend
	forward forward.Passage
	stands  bool // the policy was found in place: nothing is to be written

	// Pass are addresses that a FORWARD policy which drops has to let pass beside the policy's sources: those of the pods
	// on other nodes, who begin a conversation too.
	Pass []netip.Prefix
}

// pass is whose packets are let through.
func (r Rule) pass(p masq.Policy) []inet.Range {
	all := slices.Clone(p.Sources)
	for _, n := range r.Pass {
		all = append(all, inet.RangeOf(n))
	}
	return all
}

// Open finds a backend, before anything changes: the one of that name, or nftables where it is there, else iptables. Where
// the policy is in place already, that is one question to the kernel.
func Open(ctx context.Context, ns *netns.NS, backend string, p masq.Policy) (Rule, error) {
	r := Rule{ns: ns, name: backend, forward: forward.Passage{NS: ns}}
	if backend != "iptables" && len(p.Sources) > 0 {
		nft := masq.NFT{NS: ns}
		var err error
		if r.forward, err = nft.CheckForward(ctx, p); err == nil {
			r.backend, r.stands = nft, true
			return r, nil
		}
	}
	b, err := masq.Open(ctx, ns, backend)
	if err != nil && backend != "" {
		err = cni.Errorf(cni.ErrConfig, "netconf: key \"ipMasqBackend\": %w", err)
	}
	r.backend = b
	return r, err
}

// None reports whether the network has no SNAT.
func (r Rule) None() bool { return r.backend == nil }

// Ensure makes the policy hold and lets its sources pass. It reports whether the rule had to be made or changed.
func (r Rule) Ensure(ctx context.Context, p masq.Policy) (changed bool, err error) {
	if !r.stands || len(p.Pods) > 0 {
		b, err := masq.Ensure(ctx, r.ns, r.name, p)
		if err != nil {
			return true, err
		}
		if err := masq.Switch(ctx, r.ns, b, p.Network); err != nil {
			return true, err
		}
		changed = true
	}
	return changed, r.forward.Ensure(ctx, p.Network, r.pass(p), p.Pods...)
}

// Check fails if a part of the policy is missing or wrong.
func (r Rule) Check(ctx context.Context, p masq.Policy) error {
	if !r.stands || len(p.Pods) > 0 {
		if err := r.backend.Check(ctx, p); err != nil {
			return err
		}
	}
	return r.forward.Check(ctx, p.Network, r.pass(p), p.Pods...)
}

// Retain takes away what the policy does not name and no owner needs. A rule that is not there is not made.
func (r Rule) Retain(ctx context.Context, p masq.Policy, owners []string) error {
	list, err := r.backend.List(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(o masq.Policy) bool { return o.Of(p.Network) }) {
		return nil
	}
	if err := r.backend.Retain(ctx, p, owners); err != nil {
		return err
	}
	return forward.Passage{NS: r.ns}.Retain(ctx, p.Network, r.pass(p), owners...)
}

// Forget removes what an owner has in either backend and in the way through a FORWARD policy.
func Forget(ctx context.Context, ns *netns.NS, network, owner string) error {
	return errors.Join(masq.NFT{NS: ns}.Forget(ctx, network, owner), masq.IPTables{NS: ns}.Forget(ctx, network, owner),
		forward.Passage{NS: ns}.Forget(ctx, network, owner))
}

// Outward masquerades what pods with addresses of a node's own ranges send, without the node's own addresses in them, to
// destinations other than the ranges themselves and those excepted.
func Outward(network string, own, except []netip.Prefix, families masq.Families) masq.Policy {
	p := masq.Policy{Network: network, Except: slices.Clone(except)}
	for _, o := range own {
		if !families.Has(o.Addr().Is4()) {
			continue
		}
		r := inet.RangeOf(o)
		if first := r.Start.Next().Next(); first.IsValid() && !r.End.Less(first) {
			r.Start = first // after the base address and the gateway
		}
		if r.End == peer.NodeAddr(o) && r.Start.Less(r.End) {
			r.End = r.End.Prev()
		}
		p.Sources = append(p.Sources, r)
		p.Except = append(p.Except, o)
	}
	return p
}
