package bridge

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/undo"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/masq"
)

// snat is the masquerading of the network; without a backend there is none.
type snat struct {
	*job
	backend masq.Backend
	done    bool // the rule stands: nothing is to be written
}

// openSNAT finds a backend that can work, before anything changes. Where the network's rule stands already, that is one
// question to the kernel.
func (j *job) openSNAT(ctx context.Context) (snat, error) {
	if !j.IPMasq.any() {
		return snat{}, nil
	}
	p := j.policy(nil)
	nft := masq.NFT{NS: j.host}
	if j.IPMasqBackend != "iptables" && len(p.Sources) > 0 && nft.Check(ctx, p) == nil {
		return snat{j, nft, true}, nil
	}
	b, err := masq.Open(ctx, j.host, j.IPMasqBackend)
	if err != nil && j.IPMasqBackend != "" {
		err = cni.Errorf(cni.ErrConfig, "netconf: key \"ipMasqBackend\": %w", err)
	}
	return snat{job: j, backend: b}, err
}

func (s snat) ensure(ctx context.Context, res *cni.Result, u *undo.Stack) error {
	if s.backend == nil {
		return nil
	}
	p := s.policy(res.IPs)
	if !s.done {
		if len(p.Pods) > 0 {
			u.Push(func(ctx context.Context) error { return s.backend.Forget(ctx, s.Network, s.owner()) })
		}
		if err := s.backend.Ensure(ctx, p); err != nil {
			return err
		}
		if err := masq.Switch(ctx, s.host, s.backend, s.Network); err != nil {
			return err
		}
		if err := s.warnConflicts(ctx); err != nil {
			return err
		}
	}
	return masq.Forward{NS: s.host}.Ensure(ctx, s.Network, addresses(p))
}

// warnConflicts names other networks that treat addresses of this one otherwise.
func (j *job) warnConflicts(ctx context.Context) error {
	var all []masq.Range
	for _, pool := range j.pools {
		for _, r := range pool {
			all = append(all, masq.Range{Start: r.Start, End: r.End})
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

func addresses(p masq.Policy) []masq.Range {
	out := slices.Clone(p.Sources)
	for _, pod := range p.Pods {
		out = append(out, masq.Range{Start: pod.Addr, End: pod.Addr})
	}
	return out
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

func (j *job) wants(a netip.Addr) bool { return a.Is4() && j.IPMasq.v4 || a.Is6() && j.IPMasq.v6 }

func (j *job) gateway(r ipam.Range) netip.Addr {
	if r.Gateway.IsValid() || !j.IsGateway {
		return r.Gateway
	}
	return firstHost(r.Subnet)
}

// without is the range less one address.
func without(r ipam.Range, gw netip.Addr) (out []masq.Range) {
	if !gw.IsValid() || gw.Less(r.Start) || r.End.Less(gw) {
		return []masq.Range{{Start: r.Start, End: r.End}}
	}
	if r.Start.Less(gw) {
		out = append(out, masq.Range{Start: r.Start, End: gw.Prev()})
	}
	if gw.Less(r.End) {
		out = append(out, masq.Range{Start: gw.Next(), End: r.End})
	}
	return out
}

func (j *job) checkSNAT(ctx context.Context, reference bool) error {
	s, err := j.openSNAT(ctx)
	if err != nil || s.backend == nil {
		return err
	}
	p := j.policy(j.prevIPs())
	if !s.done {
		err = s.backend.Check(ctx, p)
	}
	if err != nil && reference && hasReference(ctx, j) {
		return nil // a pod that the reference attached has entries of its own
	}
	return errors.Join(err, masq.Forward{NS: j.host}.Check(ctx, j.Network, addresses(p)))
}

// forget removes what the node keeps for this attachment besides its device: entries that the reference made, in every
// backend, and ours where the network has some for each attachment.
func (j *job) forget(ctx context.Context) error {
	errs := []error{removeReference(ctx, j), j.unguard(ctx)}
	if j.conf.IPAM.Type != hostLocal && j.ipam != nil {
		for _, b := range []masq.Backend{masq.NFT{NS: j.host}, masq.IPTables{NS: j.host}} {
			errs = append(errs, b.Forget(ctx, j.Network, j.owner()))
		}
	}
	return errors.Join(errs...)
}

func prefixes(ips []cni.IP) []netip.Prefix {
	out := make([]netip.Prefix, len(ips))
	for i, ip := range ips {
		out[i] = ip.Address
	}
	return out
}
