//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/sources"
	"github.com/cniblocks/cniblocks/netns"
)

// NFT is the backend that speaks to nftables over netlink; it needs no program. It keeps a rule in chain postrouting of
// table inet cniblocks for each network and family, and the sets that the rule refers to:
//
//	ip saddr @src4-NETWORK ip daddr != @except4-NETWORK meta mark & 0x4000 == 0 masquerade fully-random comment "cniblocks NETWORK"
//
// Pods without ranges are in a set pods4-NETWORK with a rule of its own. The sets of a network whose name is no
// identifier are called src4/HASH and so on. Needs Linux 5.2 (NAT in the inet family) and CAP_NET_ADMIN.
type NFT struct{ NS *netns.NS }

const postrouting = "postrouting"

// inet is the table of all networks.
func ourTable() nft.Table { return nft.Table{Family: nft.INet, Name: mark.Word} }

func natChain() nft.Chain {
	const srcnat = 100 // NF_IP_PRI_NAT_SRC
	return nft.Chain{Table: ourTable(), Name: postrouting, Hook: nft.Hook{
		Type: "nat", Num: nft.Postrouting, Priority: srcnat, Policy: nft.Accept,
	}}
}

// Name implements [Backend].
func (NFT) Name() string { return "nftables" }

// proto is the family's number in nftables.
func (f family) proto() uint8 {
	if f == v4 {
		return nft.IPv4
	}
	return nft.IPv6
}

func (f family) key() nft.KeyType {
	if f == v4 {
		return nft.AddrIPv4
	}
	return nft.AddrIPv6
}

// names are those of a network's sets for a family.
type setNames struct{ src, except, pods string }

func (f family) sets(network string) setNames {
	digit := fmt.Sprint(uint8(f))
	return setNames{
		src:    mark.Set("src"+digit, network),
		except: mark.Set("except"+digit, network),
		pods:   mark.Set("pods"+digit, network),
	}
}

func (n setNames) all() []string { return []string{n.src, n.except, n.pods} }

func (f family) set(name string, interval bool) nft.Set {
	return nft.Set{Table: ourTable(), Name: name, Key: f.key(), Interval: interval}
}

// rule masquerades what comes from a set.
func (f family) rule(network, from string) nft.Rule {
	p := f.proto()
	return nft.Rule{Table: ourTable(), Chain: postrouting, Comment: mark.Comment(network), Exprs: nft.Exprs{}.Family(p).
		Source(p).In(from).
		Destination(p).NotIn(f.sets(network).except).
		Unmarked(KubeMark).
		Masquerade()}
}

// rules are what the part of a policy needs.
func (f family) rules(network string, h half) (out []nft.Rule) {
	if len(h.Ranges) > 0 {
		out = append(out, f.rule(network, f.sets(network).src))
	}
	if len(h.Pods) > 0 {
		out = append(out, f.rule(network, f.sets(network).pods))
	}
	return out
}

// Ensure implements [Backend]. When all is in place it is one write to the kernel, which reads.
func (b NFT) Ensure(ctx context.Context, p Policy) error {
	if err := p.validate(); err != nil {
		return err
	}
	return b.ensure(ctx, p)
}

func (b NFT) ensure(ctx context.Context, p Policy) error {
	const tries = 3 // another program may flush between our commit and our look
	var wrong []string
	for range tries {
		var err error
		if wrong, _, err = b.look(p); err != nil || len(wrong) == 0 {
			return b.fail(p.Network, err)
		}
		err = b.update(ctx, p.Network, func(f family, have half) half { return have.Grow(p.half(f)) })
		if err != nil {
			return err
		}
	}
	if wrong, _, err := b.look(p); err != nil || len(wrong) == 0 {
		return b.fail(p.Network, err)
	}
	return b.fail(p.Network, fmt.Errorf("another program takes it away as soon as it is made: %s", strings.Join(wrong, "; ")))
}

// Check implements [Backend].
func (b NFT) Check(ctx context.Context, p Policy) error {
	if err := p.validate(); err != nil {
		return err
	}
	wrong, _, err := b.look(p)
	return b.faults(p.Network, wrong, err)
}

// CheckForward is Check, and asks in the same write which FORWARD policies drop. The Passage that it returns takes the
// answer for granted, so it is for the one operation that is under way; it is good whatever the error of the check.
func (b NFT) CheckForward(ctx context.Context, p Policy) (forward.Passage, error) {
	w := forward.Passage{NS: b.NS}
	if err := p.validate(); err != nil {
		return w, err
	}
	wrong, answers, err := b.look(p, chains.AskForward()...)
	if answers != nil {
		if v4, v6, err := chains.ForwardDrops(answers); err == nil {
			w.Drops = &forward.Drops{IPv4: v4, IPv6: v6}
		}
	}
	return w, b.faults(p.Network, wrong, err)
}

func (b NFT) faults(network string, wrong []string, err error) error {
	if err == nil && len(wrong) > 0 {
		err = errors.New(strings.Join(wrong, "; "))
	}
	return b.fail(network, err)
}

// Retain implements [Backend].
func (b NFT) Retain(ctx context.Context, p Policy, owners []string) error {
	if err := p.validate(); err != nil {
		return err
	}
	if err := b.ensure(ctx, p); err != nil {
		return err
	}
	live := sources.Names(owners)
	return b.update(ctx, p.Network, func(f family, have half) half { return have.Shrink(p.half(f), live) })
}

// Forget implements [Backend].
func (b NFT) Forget(ctx context.Context, network, owner string) error {
	there, err := b.has(v4.sets(network).pods, v6.sets(network).pods)
	if err != nil || !there {
		return b.fail(network, err)
	}
	return b.update(ctx, network, func(_ family, have half) half { return have.Without(mark.Name(owner)) })
}

// Remove implements [Backend].
func (b NFT) Remove(ctx context.Context, network string) error {
	there, err := b.has(append(v4.sets(network).all(), v6.sets(network).all()...)...)
	if err != nil || !there {
		return b.fail(network, err)
	}
	return b.update(ctx, network, func(family, half) half { return half{} })
}

// has asks in one write whether any of the sets is there.
func (b NFT) has(sets ...string) (bool, error) {
	c, err := nft.Open(b.NS)
	if err != nil {
		return false, err
	}
	var reqs []nft.Request
	for _, s := range sets {
		reqs = append(reqs, nft.GetSet(ourTable(), s))
	}
	answers, err := c.Query(reqs...)
	for _, a := range answers {
		if a.Err == nil {
			return true, nil
		}
	}
	return false, err
}

func (b NFT) fail(network string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SNAT of network %q by nftables: %w", network, remedy(err))
}
