// Program chained is a complete chained plugin of public packages alone: it keeps frames with another source address than the
// pod's from entering the bridge that an earlier plugin put the pod on.
package main

import (
	"context"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/spoof"
)

var plugin = cni.Chain{Apply: on(spoof.Allow), Verify: on(spoof.Check), Revoke: revoke, Retain: retain}

func main() { cni.Main(plugin, nil) }

// on calls a verb of package spoof with the port of the pod: in the result of the plugin before it is the interface before.
func on(verb func(context.Context, *netns.NS, spoof.Port) error) func(context.Context, *cni.Request) error {
	return func(ctx context.Context, r *cni.Request) error {
		i := slices.IndexFunc(r.Prev.Interfaces, func(l cni.Interface) bool { return l.Name == r.IfName && l.Sandbox != "" })
		if i < 1 {
			return cni.Errorf(cni.ErrConfig, `netconf: key "prevResult" has no %s with a port before it; state this plugin after "bridge"`, r.IfName)
		}
		mac, err := inet.ParseMAC(r.Prev.Interfaces[i].MAC)
		if err != nil {
			return cni.Errorf(cni.ErrConfig, `netconf: key "prevResult.interfaces[%d].mac": %w`, i, err)
		}
		return node(func(ns *netns.NS) error {
			return verb(ctx, ns, spoof.Port{Name: r.Prev.Interfaces[i-1].Name, MAC: mac, Owner: link.Alias(r.Network, r.ContainerID, r.IfName)})
		})
	}
}

func node(f func(*netns.NS) error) error {
	ns, err := netns.Current()
	if err == nil {
		defer ns.Close()
		err = f(ns)
	}
	return err
}

// revoke needs no prevResult: what we made bears the alias of its owner.
func revoke(ctx context.Context, r *cni.Request) error {
	return node(func(ns *netns.NS) error {
		return spoof.RevokeOf(ctx, ns, link.Alias(r.Network, r.ContainerID, r.IfName))
	})
}

func retain(ctx context.Context, r *cni.Request) error {
	keep := make([]string, len(r.Valid))
	for i, a := range r.Valid {
		keep[i] = link.Alias(r.Network, a.ContainerID, a.IfName)
	}
	return node(func(ns *netns.NS) error { return spoof.Retain(ctx, ns, link.AliasPrefix(r.Network), keep) })
}
