//go:build linux

package attach

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer"
)

// Masq are the keys of source NAT.
type Masq struct {
	IPMasq        masq.Families  `json:"ipMasq"`
	IPMasqBackend string         `json:"ipMasqBackend"`
	IPMasqExcept  []netip.Prefix `json:"ipMasqExcept"`
}

// Validate fails if a value is wrong.
func (m Masq) Validate() error {
	if b := m.IPMasqBackend; b != "" && b != "iptables" && b != "nftables" {
		return cni.Errorf(cni.ErrConfig, `netconf: key "ipMasqBackend" is %q; want "nftables" or "iptables", or leave it out`, b)
	}
	for _, p := range m.IPMasqExcept {
		if p != p.Masked() {
			return cni.Errorf(cni.ErrConfig, `netconf: key "ipMasqExcept": %s has host bits; want %s`, p, p.Masked())
		}
	}
	return nil
}

// Masquerades reports whether a plugin of ours of that name masquerades for its network by [Conf], so that whoever delegates to
// it has to say whose the rule is.
func Masquerades(plugin string) bool { return plugin == "bridge" || plugin == "ptp" }

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

// OpenRule finds a backend, before anything changes: the one of that name, or nftables where it is there, else iptables. Where
// the policy is in place already, that is one question to the kernel.
func OpenRule(ctx context.Context, ns *netns.NS, backend string, p masq.Policy) (Rule, error) {
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

// Shrink takes of a network's SNAT, for GC, what no valid attachment needs: all of it with the last, or if the network is no
// longer to have any, which is what a rule without a backend says.
func Shrink(ctx context.Context, r *cni.Request, ns *netns.NS, rule Rule, p masq.Policy) error {
	if len(r.Valid) == 0 || rule.None() {
		return masq.RemoveAll(ctx, ns, r.Network)
	}
	owners := make([]string, len(r.Valid))
	for i, a := range r.Valid {
		owners[i] = Owner(a)
	}
	return rule.Retain(ctx, p, owners)
}

// OpenMasq finds the backend of the SNAT, if there is to be some, before anything changes.
func (p *Pod) OpenMasq(ctx context.Context) (err error) {
	if p.snat.IPMasq.Any() {
		p.rule, err = OpenRule(ctx, p.Node, p.snat.IPMasqBackend, p.policy(nil))
	}
	return err
}

// Masquerade makes the SNAT of the network hold for the addresses, where it is to have one, and lets them pass. It names
// other networks that treat addresses of this one otherwise.
func (p *Pod) Masquerade(ctx context.Context, ips []cni.IP) error {
	if p.rule.None() {
		return nil
	}
	policy := p.policy(ips)
	if len(policy.Pods) > 0 {
		p.Undo(func(ctx context.Context) error { return Forget(ctx, p.Node, p.Network, p.Owner()) })
	}
	changed, err := p.rule.Ensure(ctx, policy)
	if err != nil || !changed {
		return err
	}
	return p.WarnConflicts(ctx)
}

// WarnConflicts names other networks that treat addresses of this one otherwise.
func (p *Pod) WarnConflicts(ctx context.Context) error {
	var all []inet.Range
	for _, r := range slices.Concat(p.Pools...) {
		all = append(all, inet.Range{Start: r.Start, End: r.End})
	}
	if len(all) == 0 {
		return nil
	}
	found, err := masq.Conflicts(ctx, p.Node, p.policy(nil), all)
	for _, c := range found {
		p.Warn("%s", c)
	}
	return err
}

// policy is the SNAT of this network: by range where the IPAM plugin has ranges, else by the attachment's addresses.
func (p *Pod) policy(ips []cni.IP) masq.Policy {
	m := masq.Policy{Network: p.Network, Except: slices.Clone(p.snat.IPMasqExcept)}
	for _, r := range slices.Concat(p.Pools...) {
		if p.snat.IPMasq.Has(r.Start.Is4()) {
			m.Sources = append(m.Sources, without(r, p.GatewayOf(r))...)
			m.Except = append(m.Except, r.Subnet)
		}
	}
	if p.HostLocal() {
		return m
	}
	for _, ip := range ips {
		if a := ip.Address.Addr(); p.snat.IPMasq.Has(a.Is4()) {
			m.Pods = append(m.Pods, masq.Pod{Owner: p.Owner(), Addr: a})
			m.Except = append(m.Except, ip.Address.Masked())
		}
	}
	return m
}

// without is the range less its gateway.
func without(r ipam.Range, gw netip.Addr) []inet.Range {
	all := inet.Range{Start: r.Start, End: r.End}
	if !gw.IsValid() {
		return []inet.Range{all}
	}
	return all.Without(gw)
}

// CheckMasq fails if the SNAT of the network is missing or wrong.
func (p *Pod) CheckMasq(ctx context.Context, e Ends) error {
	if err := p.OpenMasq(ctx); err != nil || p.rule.None() {
		return err
	}
	err := p.rule.Check(ctx, p.policy(p.PrevIPs()))
	if err != nil && e.Reference && p.hasReference(ctx) {
		return nil // a pod that the reference attached has entries of its own
	}
	return err
}

func (p *Pod) masqStatus(ctx context.Context) error {
	if err := p.OpenMasq(ctx); err != nil {
		return err
	}
	if p.snat.IPMasq.Any() {
		if err := masq.Probe(ctx, p.Node, p.snat.IPMasqBackend); err != nil {
			return err
		}
	}
	return p.WarnConflicts(ctx)
}

// collectMasq shrinks the SNAT of the network. What another plugin made for it is not looked at.
func (p *Pod) collectMasq(ctx context.Context) error {
	if p.snat.IPMasqElsewhere || p.Partial && len(p.Valid) > 0 { // what valid attachments need is not known
		return nil
	}
	if len(p.Valid) > 0 {
		if err := p.OpenMasq(ctx); err != nil {
			return err
		}
	}
	return Shrink(ctx, p.Request, p.Node, p.rule, p.policy(nil))
}

// removeReference removes what the reference keeps on the node for an attachment that it made.
func (p *Pod) removeReference(ctx context.Context, a cni.Attachment, addrs []netip.Addr) error {
	if p.Reference.Made == nil {
		return nil
	}
	err := foreign.RemoveSNAT(ctx, p.Node, foreign.Attachment{Network: p.Network, ContainerID: a.ContainerID, IfName: a.IfName}, addrs...)
	if p.Reference.Remove != nil {
		err = errors.Join(err, p.Reference.Remove(ctx, a.ContainerID, a.IfName))
	}
	return err
}

// hasReference reports whether the reference masquerades every address of the attachment.
func (p *Pod) hasReference(ctx context.Context) bool {
	v4, v6, err := foreign.HasSNAT(ctx, p.Node, foreign.Attachment{Network: p.Network, ContainerID: p.ContainerID, IfName: p.IfName})
	return err == nil && !slices.ContainsFunc(addrs(p.PrevIPs()), func(a netip.Addr) bool { return a.Is4() && !v4 || a.Is6() && !v6 })
}

func addrs(ips []cni.IP) (addrs []netip.Addr) {
	for _, ip := range ips {
		addrs = append(addrs, ip.Address.Addr())
	}
	return addrs
}

// collectReference removes what the reference left for owners of leases that are no longer valid.
func (p *Pod) collectReference(ctx context.Context) error {
	if !p.HostLocal() || p.Reference.Made == nil {
		return nil
	}
	held, err := p.leases().Leases(ctx)
	if err != nil {
		return err
	}
	stale := map[cni.Attachment][]netip.Addr{}
	for _, l := range held {
		a := cni.Attachment{ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName}
		stale[a] = append(stale[a], l.Addr)
	}
	for _, a := range p.Valid {
		delete(stale, a)
		delete(stale, cni.Attachment{ContainerID: a.ContainerID}) // a lease of its container, which names no interface
	}
	var errs []error
	for a, addrs := range stale {
		errs = append(errs, p.removeReference(ctx, a, addrs))
	}
	return errors.Join(errs...)
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
