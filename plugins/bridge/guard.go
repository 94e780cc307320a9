package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/spoof"
)

// guard keeps frames with another source address than the pod's from entering the bridge (key macspoofchk). It stands
// before the pod's end is up.
func (j *job) guard(ctx context.Context, port string, mac inet.MAC, u *undo.Stack) error {
	if !j.MACSpoofChk {
		return nil
	}
	u.Push(func(ctx context.Context) error { return spoof.Revoke(ctx, j.host, port) })
	return spoof.Allow(ctx, j.host, spoof.Port{Name: port, MAC: mac, Owner: j.alias})
}

func (j *job) checkGuard(ctx context.Context, p present) error {
	if !j.MACSpoofChk {
		return nil
	}
	port := spoof.Port{Name: p.host.Name, MAC: p.pod.MAC, Owner: j.alias}
	if p.reference {
		ok, err := foreign.HasGuard(ctx, j.host, j.foreign(), port.Name, port.MAC)
		if err == nil && !ok {
			err = fmt.Errorf("the spoof check of %s is missing or wrong", p.host.Name)
		}
		return err
	}
	return spoof.Check(ctx, j.host, port)
}

func (j *job) unguard(ctx context.Context) error {
	return spoof.Revoke(ctx, j.host, link.HostName(j.Network, j.ContainerID, j.IfName))
}

// removeReference removes what the reference keeps on the node for an attachment that it made.
func (j *job) removeReference(ctx context.Context, addrs ...netip.Addr) error {
	return errors.Join(foreign.RemoveSNAT(ctx, j.host, j.foreign(), addrs...), foreign.RemoveGuard(ctx, j.host, j.foreign()))
}

func (j *job) foreign() foreign.Attachment {
	return foreign.Attachment{Network: j.Network, ContainerID: j.ContainerID, IfName: j.IfName}
}

// hasReference reports whether the reference masquerades every address of the attachment.
func (j *job) hasReference(ctx context.Context) bool {
	v4, v6, err := foreign.HasSNAT(ctx, j.host, j.foreign())
	return err == nil && !slices.ContainsFunc(j.prevAddrs(), func(a netip.Addr) bool { return a.Is4() && !v4 || a.Is6() && !v6 })
}

// prevAddrs are the addresses that prevResult, if there is one, gives our interface.
func (j *job) prevAddrs() (addrs []netip.Addr) {
	for _, ip := range j.PrevIPs() {
		addrs = append(addrs, ip.Address.Addr())
	}
	return addrs
}
