// Package hostlocal is the CNI plugin "host-local": it leases addresses from ranges that this host has for itself.
//
// It takes every key of the reference plugin of that name, and works in the same directory; see package ipam.
package hostlocal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/ipam"
)

// Plugin is the host-local plugin. The zero value is ready to use.
type Plugin struct{}

var _ cni.Plugin = Plugin{}

func dir(r *cni.Request, c *conf) ipam.Dir {
	return ipam.Dir{DataDir: c.dataDir, Network: r.Network}
}

func owner(r *cni.Request) ipam.Owner {
	return ipam.Owner{ContainerID: r.ContainerID, IfName: r.IfName}
}

// Add leases one address from every pool.
func (Plugin) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	res := &cni.Result{Routes: c.IPAM.Routes}
	if c.IPAM.ResolvConf != "" {
		if res.DNS, err = resolvConf(c.IPAM.ResolvConf); err != nil {
			return nil, err
		}
	}
	leases, err := ipam.Allocator{Dir: dir(r, c), Pools: c.pools}.Allocate(ctx, owner(r), c.wanted...)
	if err != nil {
		return nil, refusal(r, err)
	}
	for _, l := range leases {
		res.IPs = append(res.IPs, cni.IP{Address: l.Addr, Gateway: l.Gateway, Interface: cni.NoInterface})
	}
	return res, nil
}

// refusal gives an allocator's error its code: an exhausted pool may have room later, a wish that cannot come true is one
// of the configuration.
func refusal(r *cni.Request, err error) error {
	code := cni.CodeOf(err)
	var wish *ipam.NotOfferedError
	switch {
	case errors.As(err, &wish): // it begins as the reference's does
		return cni.Errorf(cni.ErrConfig, "failed to allocate all requested IPs: %s: network %q: %w", wish.Addr, r.Network, err)
	case errors.Is(err, ipam.ErrExhausted):
		code = cni.ErrTryAgain
	case errors.Is(err, ipam.ErrHeld), errors.Is(err, ipam.ErrTaken):
		code = cni.ErrConfig
	}
	return cni.Errorf(code, "network %q: %w", r.Network, fullDisk(err))
}

// fullDisk names the key if no lease can be written.
func fullDisk(err error) error {
	for errno, is := range map[error]string{syscall.ENOSPC: "full", syscall.EDQUOT: "full for this user", syscall.EROFS: "read-only"} {
		if errors.Is(err, errno) {
			return fmt.Errorf("the file system of key \"ipam.dataDir\" is %s; make room there, or choose another directory: %w", is, err)
		}
	}
	return err
}

// Del gives the leases back; it needs no ranges.
func (Plugin) Del(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	return dir(r, c).Release(ctx, owner(r))
}

// Check fails if the attachment's addresses, those of prevResult if there is one, are not leased to it.
func (Plugin) Check(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	var want []netip.Addr
	if r.Prev != nil {
		for _, ip := range r.Prev.IPs {
			offered := slices.ContainsFunc(c.pools, func(p ipam.Pool) bool { _, ok := p.Range(ip.Address.Addr()); return ok })
			if offered && mine(r, ip) {
				want = append(want, ip.Address.Addr())
			}
		}
	}
	if err := dir(r, c).Check(ctx, owner(r), want...); err != nil {
		return cni.Errorf(cni.ErrIO, "network %q: %w", r.Network, err)
	}
	return nil
}

// mine reports whether an address of prevResult is on the interface that is asked about.
func mine(r *cni.Request, ip cni.IP) bool {
	return ip.Interface == cni.NoInterface || r.Prev.Interfaces[ip.Interface].Name == r.IfName
}

// Status fails if a pool has no address left.
func (Plugin) Status(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	free, err := ipam.Allocator{Dir: dir(r, c), Pools: c.pools}.Available(ctx)
	if err != nil {
		return cni.Errorf(cni.ErrNotAvailable, "network %q: %w", r.Network, err)
	}
	for i, n := range free {
		if n == 0 {
			return cni.Errorf(cni.ErrNotAvailable, "network %q: pool %s has no address left; add a range, or delete pods", r.Network, c.pools[i])
		}
	}
	return nil
}

// GC gives back every lease of the network that belongs to no valid attachment.
func (Plugin) GC(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	return dir(r, c).Retain(ctx, func(yield func(ipam.Owner) bool) {
		for _, a := range r.Valid {
			if !yield(ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}) {
				return
			}
		}
	})
}
