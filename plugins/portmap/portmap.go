// Package portmap is the CNI plugin "portmap": ports of the node lead to a container that an earlier plugin attached.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/portmap.md.
package portmap

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/portmap"
)

// Plugin is the portmap plugin.
var Plugin = cni.Chain{Apply: apply, Verify: verify, Revoke: revoke, Retain: retain, Ready: ready}

// node calls f with the configuration and the node's namespace.
func node(r *cni.Request, f func(conf, *netns.NS) error) error {
	c, err := read(r)
	if err != nil {
		return err
	}
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	return f(c, ns)
}

// both are the backends that may have something: what DEL and GC find was made by an earlier configuration.
func both(ns *netns.NS) []portmap.Backend {
	return []portmap.Backend{portmap.Table{NS: ns}, portmap.IPTables{NS: ns}}
}

func apply(ctx context.Context, r *cni.Request) error {
	return node(r, func(c conf, ns *netns.NS) error {
		p, err := c.pod(r)
		if err != nil || len(p.Maps) == 0 {
			return err
		}
		err = c.backend(ns).Set(ctx, p)
		if errors.Is(err, fs.ErrExist) {
			return cni.Errorf(cni.ErrTryAgain, `netconf: key "runtimeConfig.portMappings": %w`, err)
		}
		if errors.Is(err, errors.ErrUnsupported) {
			return cni.Errorf(cni.ErrConfig, `netconf: key "backend": %w`, err)
		}
		return err
	})
}

func verify(ctx context.Context, r *cni.Request) error {
	return node(r, func(c conf, ns *netns.NS) error {
		p, err := c.pod(r)
		if err != nil || len(p.Maps) == 0 {
			return err
		}
		err = c.backend(ns).Check(ctx, p)
		if err == nil {
			return nil
		}
		if has, other := foreign.HasHostPorts(ctx, ns, attachment(r), p.Addrs); other == nil && has {
			return nil // a pod that the reference attached has entries of its own
		}
		return err
	})
}

func attachment(r *cni.Request) foreign.Attachment {
	return foreign.Attachment{Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName}
}

func revoke(ctx context.Context, r *cni.Request) error {
	return node(r, func(c conf, ns *netns.NS) error {
		var errs []error
		for _, b := range both(ns) {
			errs = append(errs, b.Remove(ctx, link.Alias(r.Network, r.ContainerID, r.IfName), c.hosts()...))
		}
		return errors.Join(append(errs, foreign.RemoveHostPorts(ctx, ns, attachment(r)))...)
	})
}

func retain(ctx context.Context, r *cni.Request) error {
	return node(r, func(_ conf, ns *netns.NS) error {
		var errs []error
		for _, b := range both(ns) {
			errs = append(errs, b.Retain(ctx, link.AliasPrefix(r.Network), attach.Aliases(r)))
		}
		return errors.Join(errs...)
	})
}

func ready(ctx context.Context, r *cni.Request) error {
	return node(r, func(c conf, ns *netns.NS) error { return c.backend(ns).Ready(ctx) })
}

// iptablesSyntax reports whether a list of conditions is written as for iptables.
func iptablesSyntax(list []string) bool {
	return len(list) > 0 && (strings.HasPrefix(list[0], "-") || strings.HasPrefix(list[0], "!"))
}
