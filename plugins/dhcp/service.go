//go:build linux

package dhcp

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// service is what is asked over the socket. Allocate and Release are the reference's.
type service struct{ d *Daemon }

// Allocate gets a lease that the daemon keeps until Release. One that it keeps already stays.
func (s *service) Allocate(args *skel.CmdArgs, result *types100.Result) error {
	q, err := read(args)
	if err != nil {
		return err
	}
	l, err := s.d.allocate(args, q)
	if err != nil {
		return err
	}
	prefix, err := l.Prefix()
	if err != nil {
		return err
	}
	result.IPs = []*types100.IPConfig{{Address: ipNet(prefix), Gateway: l.Gateway().AsSlice()}}
	for _, r := range l.Routes() {
		route := &types.Route{Dst: ipNet(r.Dst), GW: r.Via.AsSlice(), Priority: q.IPAM.Priority}
		if !r.Via.IsValid() {
			scope := unix.RT_SCOPE_LINK
			route.Scope = &scope
		}
		result.Routes = append(result.Routes, route)
	}
	return nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Release gives the lease back. None is no error.
func (s *service) Release(args *skel.CmdArgs, _ *struct{}) error {
	q, _ := read(args) // without a configuration that can be read there is no lease of that name
	s.d.release(note{ContainerID: args.ContainerID, Network: q.Name, IfName: args.IfName, NetNS: args.Netns}, q.had())
	return nil
}

// Check fails unless the attachment has a lease of the address that it had, or gets it now: another daemon may have kept it.
func (s *service) Check(args *skel.CmdArgs, _ *struct{}) error {
	q, err := read(args)
	if err != nil {
		return err
	}
	l, err := s.d.allocate(args, q)
	if err != nil {
		return err
	}
	if p, err := l.Prefix(); err != nil || q.had().IsValid() && p.Addr() != q.had() {
		return fmt.Errorf("the lease is of %s, and prevResult says %s", l.ACK.YourIPAddr, q.had())
	}
	return nil
}

// Status is answered by a daemon that works.
func (s *service) Status(*skel.CmdArgs, *struct{}) error { return nil }

// Retain gives back the leases of a network that the list "cni.dev/valid-attachments" does not name.
func (s *service) Retain(args *skel.CmdArgs, _ *struct{}) error {
	q, err := read(args)
	if err != nil {
		return err
	}
	return s.d.retain(q)
}
