// Package loopback is the CNI plugin "loopback": it sets the loopback interface of a container up.
package loopback

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Plugin is the loopback plugin. The zero value is ready to use. The interface is always lo, whatever CNI_IFNAME says, as
// with the reference.
type Plugin struct{}

var _ cni.Plugin = Plugin{}

const lo = "lo"

// Add sets lo up. With a prevResult, as a chained plugin, it passes that on.
func (Plugin) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	var res *cni.Result
	err := within(r, func(c *rtnl.Conn) error {
		if err := c.Do(rtnl.SetLink(rtnl.Set{Name: lo, Up: true})); err != nil {
			return err
		}
		if res = r.Prev; res != nil {
			return nil
		}
		res = &cni.Result{Interfaces: []cni.Interface{{Name: lo, MAC: "00:00:00:00:00:00", Sandbox: r.NetNS}}}
		l, err := c.LinkByName(lo)
		if err != nil {
			return err
		}
		addrs, err := c.Addrs(l.Index)
		for _, a := range addrs {
			if a.Prefix.Addr().IsLoopback() {
				res.IPs = append(res.IPs, cni.IP{Address: a.Prefix, Interface: 0, Gateway: netip.Addr{}})
			}
		}
		return err
	})
	return res, err
}

// Del does nothing: the namespace's end is the interface's end, and other networks of the container need it until then.
func (Plugin) Del(context.Context, *cni.Request) error { return nil }

// Check fails if lo is down.
func (Plugin) Check(_ context.Context, r *cni.Request) error {
	return within(r, func(c *rtnl.Conn) error {
		l, err := c.LinkByName(lo)
		if err == nil && !l.Up() {
			err = cni.Errorf(cni.ErrIO, "interface lo in %s is down", r.NetNS)
		}
		return err
	})
}

// Status is always well.
func (Plugin) Status(context.Context, *cni.Request) error { return nil }

// GC has nothing to do.
func (Plugin) GC(context.Context, *cni.Request) error { return nil }

func within(r *cni.Request, f func(*rtnl.Conn) error) error {
	ns, err := netns.Open(r.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return cni.Errorf(cni.ErrUnknownContainer, "CNI_NETNS: %w", err)
	}
	if err != nil {
		return cni.Errorf(cni.ErrEnvironment, "CNI_NETNS: %w", err)
	}
	defer ns.Close()
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	return f(c)
}
