//go:build linux

package foreign

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// Attachment is an interface of a container in a network, the key by which the reference names what it makes for each pod.
type Attachment struct{ Network, ContainerID, IfName string }

// chain is that of table nat.
func (a Attachment) chain() string { return refChain + sha(a.Network+a.ContainerID, refChainHash) }

// comment begins the comment of the rules in nftables.
func (a Attachment) comment() string {
	return sha(a.Network, 16) + "-" + sha(a.IfName+":"+a.ContainerID, 16) + ","
}

// IFB is the name of the device that the reference's bandwidth plugin makes for what a pod sends.
func (a Attachment) IFB() string { return "bwp" + sha(a.Network+a.ContainerID, 12) }

func sha(s string, digits int) string {
	sum := sha512.Sum512([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

// RemoveSNAT removes the SNAT that the reference made for a pod, in every backend, and its nftables table
// with the last rule in it. Where there is nothing, it asks the kernel in one write and starts no program.
//
// The iptables chain serves all interfaces of the container in the network. Given the addresses of this attachment, only
// the jumps from those are removed, and the chain with the last jump; without any it is removed with all jumps.
func RemoveSNAT(ctx context.Context, ns *netns.NS, a Attachment, addrs ...netip.Addr) error {
	var errs []error
	chains, inet, err := lookForSNAT(ns, a)
	errs = append(errs, err)
	for _, f := range families {
		if chains[f] {
			errs = append(errs, removeRefChain(ctx, ns, f, a.chain(), addrs))
		}
		errs = append(errs, removeRefLegacy(ctx, ns, f, a.chain(), addrs))
	}
	if inet {
		errs = append(errs, removeRefRules(ctx, ns, a))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the reference plugins' SNAT of container %s in network %q: %w", a.ContainerID, a.Network, err)
	}
	return nil
}

// lookForSNAT asks in one write whether the chains of iptables-nft are there, and whether there are rules of the
// reference at all in nftables.
func lookForSNAT(ns *netns.NS, a Attachment) (chains map[xtables.Family]bool, inet bool, err error) {
	c, err := nft.Open(ns)
	if nft.Missing(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	answers, err := c.Query(nft.GetChain(nat(4), a.chain()), nft.GetChain(nat(6), a.chain()), nft.GetChain(refINet, refRules))
	if err != nil {
		return nil, false, err
	}
	for _, answer := range answers {
		if answer.Err != nil && !absent(answer.Err) {
			return nil, false, answer.Err
		}
	}
	return map[xtables.Family]bool{4: answers[0].Err == nil, 6: answers[1].Err == nil}, answers[2].Err == nil, nil
}

func removeRefChain(ctx context.Context, ns *netns.NS, f xtables.Family, chain string, addrs []netip.Addr) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	t := nat(f)
	return c.Update(ctx, func(b *nft.Batch) error {
		if _, err := c.Chain(t, chain); err != nil {
			return ignoreNotExist(err)
		}
		rules, err := c.Rules(t, natBase)
		if err != nil {
			return err
		}
		left := false
		for _, r := range rules {
			if r.Exprs.Jumps() != chain {
				continue
			}
			if len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
				return a.Is4() == (f == 4) && r.Exprs.Has(nft.Exprs{}.Source(proto(f)).Equal(a.AsSlice()))
			}) {
				left = true
				continue
			}
			b.DelRule(r)
		}
		if !left {
			b.DelChain(t, chain)
		}
		return nil
	})
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeRefLegacy(ctx context.Context, ns *netns.NS, f xtables.Family, chain string, addrs []netip.Addr) error {
	p, there, err := xtables.FindMentioned(ctx, ns, f, "nat", chain)
	if err != nil || !there {
		return err
	}
	return p.Update(ctx, ns, "nat", func(rs xtables.Ruleset) ([]string, error) { return refRemoval(rs, chain, addrs), nil })
}

func refRemoval(rs xtables.Ruleset, chain string, addrs []netip.Addr) []string {
	if _, ok := rs[chain]; !ok {
		return nil
	}
	jumps := rs.Jumps(natBase, chain)
	ours := slices.DeleteFunc(slices.Clone(jumps), func(r xtables.Rule) bool {
		return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
			return strings.HasPrefix(r.Text, fmt.Sprintf("-s %s/%d ", a, a.BitLen()))
		})
	})
	lines := xtables.Deletions(natBase, ours)
	if len(ours) == len(jumps) {
		lines = append(lines, "-F "+chain, "-X "+chain)
	}
	return lines
}

func removeRefRules(ctx context.Context, ns *netns.NS, a Attachment) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	return c.Update(ctx, func(b *nft.Batch) error {
		rules, err := c.Rules(refINet, refRules)
		if err != nil {
			return err
		}
		left := len(rules)
		for _, r := range rules {
			if strings.HasPrefix(r.Comment, a.comment()) {
				b.DelRule(r)
				left--
			}
		}
		if b.Empty() || left > 0 {
			return nil
		}
		chains, err := c.Chains(nft.INet)
		if err == nil && !slices.ContainsFunc(chains, func(ch nft.Chain) bool {
			return ch.Table == refINet && ch.Name != refRules && ch.Name != refBase
		}) {
			b.DelTable(refINet)
		}
		return err
	})
}

// HasSNAT reports for which families the reference's SNAT of a pod is in place, in whatever backend: its
// chain with the jump to it, or its rule.
func HasSNAT(ctx context.Context, ns *netns.NS, a Attachment) (ipv4, ipv6 bool, err error) {
	found := map[xtables.Family]bool{}
	chains, inet, err := lookForSNAT(ns, a)
	if err == nil {
		err = findSNAT(ctx, ns, a, chains, inet, found)
	}
	if err != nil {
		return false, false, fmt.Errorf("look for the reference plugins' SNAT of container %s in network %q: %w", a.ContainerID, a.Network, err)
	}
	return found[4], found[6], nil
}

func findSNAT(ctx context.Context, ns *netns.NS, a Attachment, chains map[xtables.Family]bool, inet bool, found map[xtables.Family]bool) error {
	for _, f := range families {
		if chains[f] {
			if err := findRefJump(ns, f, a.chain(), found); err != nil {
				return err
			}
		}
		p, there, err := xtables.FindMentioned(ctx, ns, f, "nat", a.chain())
		if err != nil {
			return err
		}
		if there {
			rs, err := p.Save(ctx, ns, "nat")
			if err != nil {
				return err
			}
			found[f] = found[f] || len(rs[a.chain()].Rules) > 0 && len(rs.Jumps(natBase, a.chain())) > 0
		}
	}
	if !inet {
		return nil
	}
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	rules, err := c.Rules(refINet, refRules)
	for _, r := range rules {
		if strings.HasPrefix(r.Comment, a.comment()) {
			found[4] = found[4] || r.Exprs.Has(nft.Exprs{}.Source(nft.IPv4))
			found[6] = found[6] || r.Exprs.Has(nft.Exprs{}.Source(nft.IPv6))
		}
	}
	return err
}

func findRefJump(ns *netns.NS, f xtables.Family, chain string, found map[xtables.Family]bool) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	rules, err := c.Rules(nat(f), chain)
	if err != nil || len(rules) == 0 {
		return err
	}
	jumps, err := c.Rules(nat(f), natBase)
	found[f] = found[f] || slices.ContainsFunc(jumps, func(r nft.Rule) bool { return r.Exprs.Jumps() == chain })
	return err
}
