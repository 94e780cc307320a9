//go:build linux

package foreign

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// What the reference's plugin portmap calls its things: a chain for each container, to which one for all jumps, and in nftables
// rules whose comment is the container's ID.
const (
	refPorts     = "CNI-HOSTPORT-DNAT"
	refPortTable = "cni_hostport"
	refPortHash  = 21 // digits
)

// refTrunks are the chains for all, and from where they are jumped to.
var refTrunks = []struct {
	name  string
	bases []string
}{{refPorts, []string{"PREROUTING", "OUTPUT"}}, {"CNI-HOSTPORT-MASQ", []string{"POSTROUTING"}}, {"CNI-HOSTPORT-SETMARK", nil}}

func (a Attachment) portChain() string {
	return refChain + "DN-" + sha(a.Network+a.ContainerID, refPortHash)
}

// HasHostPorts reports whether the reference leads host ports to the addresses, in whatever backend.
func HasHostPorts(ctx context.Context, ns *netns.NS, a Attachment, addrs []netip.Prefix) (bool, error) {
	c, err := nft.Open(ns)
	if err != nil {
		return false, err
	}
	for _, addr := range addrs {
		f := xtables.Family(4)
		if addr.Addr().Is6() {
			f = 6
		}
		rules, err := c.Rules(nft.Table{Family: proto(f), Name: refPortTable}, "hostports")
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(rules, func(r nft.Rule) bool { return r.Comment == a.ContainerID }) {
			continue
		}
		own, err := c.Rules(nat(f), a.portChain())
		if err != nil {
			return false, err
		}
		trunk, err := c.Rules(nat(f), refPorts)
		if err != nil {
			return false, err
		}
		if len(own) > 0 && slices.ContainsFunc(trunk, func(r nft.Rule) bool { return r.Exprs.Jumps() == a.portChain() }) {
			continue
		}
		p, there, err := xtables.FindMentioned(ctx, ns, f, "nat", a.portChain())
		if err != nil || !there {
			return false, err
		}
		rs, err := p.Save(ctx, ns, "nat")
		if err != nil || len(rs[a.portChain()].Rules) == 0 || len(rs.Jumps(refPorts, a.portChain())) == 0 {
			return false, err
		}
	}
	return len(addrs) > 0, nil
}

// RemoveHostPorts removes the host ports that the reference made for a container, in every backend, and with the last what all
// of them have in common.
func RemoveHostPorts(ctx context.Context, ns *netns.NS, a Attachment) error {
	var errs []error
	c, err := nft.Open(ns)
	if err == nil {
		err = removeRefPorts(ctx, c, a)
	}
	if err != nil && !nft.Missing(err) {
		errs = append(errs, err)
	}
	for _, f := range families {
		errs = append(errs, removeRefPortsLegacy(ctx, ns, f, a.portChain()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the reference plugins' host ports of container %s in network %q: %w", a.ContainerID, a.Network, err)
	}
	return nil
}

// removeRefPorts asks in one write, and changes something only where there is something.
func removeRefPorts(ctx context.Context, c *nft.Conn, a Attachment) error {
	var reqs []nft.Request
	for _, f := range families {
		reqs = append(reqs, nft.GetChain(nat(f), a.portChain()), nft.GetTable(nft.Table{Family: proto(f), Name: refPortTable}))
	}
	answers, err := c.Query(reqs...)
	if err != nil {
		return err
	}
	for i, f := range families {
		if answers[2*i].Err == nil {
			err = errors.Join(err, c.Update(ctx, func(b *nft.Batch) error { return planRefChains(c, b, nat(f), a.portChain()) }))
		}
		if answers[2*i+1].Err == nil {
			err = errors.Join(err, c.Update(ctx, func(b *nft.Batch) error {
				return planRefTable(c, b, nft.Table{Family: proto(f), Name: refPortTable}, a.ContainerID)
			}))
		}
	}
	return err
}

func planRefChains(c *nft.Conn, b *nft.Batch, t nft.Table, own string) error {
	trunk, err := c.Rules(t, refPorts)
	if err != nil {
		return err
	}
	left := 0
	for _, r := range trunk {
		if r.Exprs.Jumps() == own {
			b.DelRule(r)
		} else {
			left++
		}
	}
	if _, err := c.Chain(t, own); err == nil {
		b.DelChain(t, own)
	}
	if left > 0 {
		return nil
	}
	for _, x := range refTrunks {
		if _, err := c.Chain(t, x.name); err != nil {
			continue
		}
		for _, base := range x.bases {
			rules, err := c.Rules(t, base)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Exprs.Jumps() == x.name {
					b.DelRule(r)
				}
			}
		}
		b.DelChain(t, x.name)
	}
	return nil
}

func planRefTable(c *nft.Conn, b *nft.Batch, t nft.Table, id string) error {
	all, err := c.Rules(t, "")
	if err != nil {
		return err
	}
	left := 0
	for _, r := range all {
		switch {
		case r.Comment == id:
			b.DelRule(r)
		case r.Comment != "":
			left++
		}
	}
	if left == 0 && !b.Empty() {
		b.DelTable(t)
	}
	return nil
}

func removeRefPortsLegacy(ctx context.Context, ns *netns.NS, f xtables.Family, own string) error {
	p, there, err := xtables.FindMentioned(ctx, ns, f, "nat", own)
	if err != nil || !there {
		return err
	}
	return p.Update(ctx, ns, "nat", func(rs xtables.Ruleset) ([]string, error) {
		jumps := rs.Jumps(refPorts, own)
		lines := xtables.Deletions(refPorts, jumps)
		chains := []string{own}
		if len(jumps) == len(rs[refPorts].Rules) {
			for _, x := range refTrunks {
				for _, base := range x.bases {
					lines = append(lines, xtables.Deletions(base, rs.Jumps(base, x.name))...)
				}
				chains = append(chains, x.name)
			}
		}
		for _, what := range []string{"-F ", "-X "} {
			for _, chain := range chains {
				if _, ok := rs[chain]; ok {
					lines = append(lines, what+chain)
				}
			}
		}
		return lines, nil
	})
}
