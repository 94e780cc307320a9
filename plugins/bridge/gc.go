package bridge

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/spoof"
	"github.com/cniblocks/cniblocks/veth"
)

// Status fails if an ADD could not succeed now: no usable SNAT backend, a bridge of another kind in the way, an IPAM
// plugin that is missing or says so itself.
func (p Plugin) Status(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return notAvailable(err)
	}
	defer j.close()
	br, err := bridge.Get(ctx, j.host, j.Bridge)
	if err == nil {
		j.warnShared(br, nil)
		err = j.checkWidth(br)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return notAvailable(err)
	}
	if _, err = j.openSNAT(ctx); err != nil {
		return notAvailable(err)
	}
	if j.IPMasq.Any() {
		if err := masq.Probe(ctx, j.host, j.IPMasqBackend); err != nil {
			return notAvailable(err)
		}
	}
	if err := j.warnConflicts(ctx); err != nil {
		return notAvailable(err)
	}
	if j.ipam != nil {
		return j.ipam.Status(ctx, r)
	}
	return nil
}

// notAvailable gives the code by which STATUS says no, save to an error in the configuration.
func notAvailable(err error) error {
	switch cni.CodeOf(err) {
	case cni.ErrConfig, cni.ErrDecode, cni.ErrVersion, cni.ErrEnvironment, cni.ErrNotAvailable, cni.ErrLimited:
		return err
	}
	return cni.Errorf(cni.ErrNotAvailable, "%w", err)
}

// GC takes away every attachment of this network that the runtime no longer has: devices first, then what the node keeps
// for them, then their addresses. It goes on after an error.
func (p Plugin) GC(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	var keep []string
	for _, a := range r.Valid {
		keep = append(keep, link.Alias(r.Network, a.ContainerID, a.IfName))
	}
	devices := veth.Retain(ctx, j.host, r.Network, keep...)
	errs := []error{devices, spoof.Retain(ctx, j.host, link.AliasPrefix(r.Network), keep),
		j.sweepReference(ctx), j.sweepSNAT(ctx)}
	if j.ipam != nil && devices == nil {
		errs = append(errs, j.ipam.GC(ctx, r))
	}
	errs = append(errs, j.retireGateways(ctx, 0, false))
	return errors.Join(errs...)
}

// sweepReference removes what the reference left for owners of leases that are no longer valid.
func (j *job) sweepReference(ctx context.Context) error {
	if j.conf.IPAM.Type != hostLocal {
		return nil
	}
	held, err := ipam.Dir{DataDir: j.conf.IPAM.DataDir, Network: j.Network}.Leases(ctx)
	if err != nil {
		return err
	}
	stale := map[cni.Attachment][]netip.Addr{}
	for _, l := range held {
		a := cni.Attachment{ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName}
		stale[a] = append(stale[a], l.Addr)
	}
	for _, a := range j.Valid {
		delete(stale, a)
		delete(stale, cni.Attachment{ContainerID: a.ContainerID}) // a lease of its container, which names no interface
	}
	var errs []error
	for a, addrs := range stale {
		one, request := *j, *j.Request
		request.ContainerID, request.IfName = a.ContainerID, a.IfName
		one.Request = &request
		errs = append(errs, one.removeReference(ctx, addrs...))
	}
	return errors.Join(errs...)
}

// sweepSNAT shrinks the SNAT of the network to what is configured and valid; with the last attachment it goes. What another
// plugin made for the network is not looked at.
func (j *job) sweepSNAT(ctx context.Context) error {
	if j.IPMasqElsewhere {
		return nil
	}
	if len(j.Valid) == 0 {
		return masq.RemoveAll(ctx, j.host, j.Network)
	}
	if j.least {
		return nil // what valid attachments need is not known
	}
	rule, err := j.openSNAT(ctx)
	if err != nil {
		return err
	}
	if rule.None() {
		return masq.RemoveAll(ctx, j.host, j.Network)
	}
	owners := make([]string, len(j.Valid))
	for i, a := range j.Valid {
		owners[i] = a.ContainerID + "/" + a.IfName
	}
	return rule.Retain(ctx, j.policy(nil), owners)
}
