package bridge

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/internal/snat"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/masq"
)

func (j *job) openSNAT(ctx context.Context) (snat.Rule, error) {
	if !j.IPMasq.Any() {
		return snat.Rule{}, nil
	}
	return snat.Open(ctx, j.host, j.IPMasqBackend, j.policy(nil))
}

func (j *job) ensureSNAT(ctx context.Context, rule snat.Rule, res *cni.Result, u *undo.Stack) error {
	if rule.None() {
		return nil
	}
	p := j.policy(res.IPs)
	if len(p.Pods) > 0 {
		u.Push(func(ctx context.Context) error { return snat.Forget(ctx, j.host, j.Network, j.owner()) })
	}
	changed, err := rule.Ensure(ctx, p)
	if err != nil || !changed {
		return err
	}
	return j.warnConflicts(ctx)
}

// warnConflicts names other networks that treat addresses of this one otherwise.
func (j *job) warnConflicts(ctx context.Context) error {
	var all []inet.Range
	for _, pool := range j.pools {
		for _, r := range pool {
			all = append(all, inet.Range{Start: r.Start, End: r.End})
		}
	}
	if len(all) == 0 {
		return nil
	}
	found, err := masq.Conflicts(ctx, j.host, j.policy(nil), all)
	for _, c := range found {
		j.Warn("%s", c)
	}
	return err
}

// owner names the attachment among those of the network.
func (j *job) owner() string { return j.ContainerID + "/" + j.IfName }

// policy is the SNAT of this network: by range where the IPAM plugin has ranges, else by the attachment's addresses.
func (j *job) policy(ips []cni.IP) masq.Policy {
	p := masq.Policy{Network: j.Network, Except: slices.Clone(j.IPMasqExcept)}
	for _, pool := range j.pools {
		for _, r := range pool {
			if j.wants(r.Start) {
				p.Sources = append(p.Sources, without(r, j.gateway(r))...)
				p.Except = append(p.Except, r.Subnet)
			}
		}
	}
	if j.conf.IPAM.Type == hostLocal {
		return p
	}
	for _, ip := range ips {
		if j.wants(ip.Address.Addr()) {
			p.Pods = append(p.Pods, masq.Pod{Owner: j.owner(), Addr: ip.Address.Addr()})
			p.Except = append(p.Except, ip.Address.Masked())
		}
	}
	return p
}

func (j *job) wants(a netip.Addr) bool { return j.IPMasq.Has(a.Is4()) }

func (j *job) gateway(r ipam.Range) netip.Addr {
	if r.Gateway.IsValid() || !j.IsGateway {
		return r.Gateway
	}
	return firstHost(r.Subnet)
}

// without is the range less one address.
func without(r ipam.Range, gw netip.Addr) (out []inet.Range) {
	if !gw.IsValid() || gw.Less(r.Start) || r.End.Less(gw) {
		return []inet.Range{{Start: r.Start, End: r.End}}
	}
	if r.Start.Less(gw) {
		out = append(out, inet.Range{Start: r.Start, End: gw.Prev()})
	}
	if gw.Less(r.End) {
		out = append(out, inet.Range{Start: gw.Next(), End: r.End})
	}
	return out
}

func (j *job) checkSNAT(ctx context.Context, reference bool) error {
	rule, err := j.openSNAT(ctx)
	if err != nil || rule.None() {
		return err
	}
	err = rule.Check(ctx, j.policy(j.PrevIPs()))
	if err != nil && reference && j.hasReference(ctx) {
		return nil // a pod that the reference attached has entries of its own
	}
	return err
}

// forget removes what the node keeps for this attachment besides its device.
func (j *job) forget(ctx context.Context) error {
	err := j.unguard(ctx)
	if j.conf.IPAM.Type != hostLocal && j.ipam != nil {
		err = errors.Join(err, snat.Forget(ctx, j.host, j.Network, j.owner()))
	}
	return err
}

func prefixes(ips []cni.IP) []netip.Prefix {
	out := make([]netip.Prefix, len(ips))
	for i, ip := range ips {
		out[i] = ip.Address
	}
	return out
}
