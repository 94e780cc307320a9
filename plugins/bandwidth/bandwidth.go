// Package bandwidth is the CNI plugin "bandwidth": chained behind a plugin that attaches a container by a veth pair, it limits
// the rates at which the container receives and sends.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/bandwidth.md.
package bandwidth

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/shape"
)

// Plugin is the bandwidth plugin.
var Plugin = cni.Chain{Apply: apply, Verify: verify, Revoke: revoke, Retain: retain, Ready: ready}

// begin finds what a request is about: the limits and, if there is one, the device that bears them.
func begin(ctx context.Context, r *cni.Request, f func(*netns.NS, shape.Device, shape.Limits) error) error {
	l, err := limits(r, 0)
	if err != nil || l == (shape.Limits{}) {
		return err
	}
	node, pod, err := r.Namespaces()
	if err != nil {
		return err
	}
	defer node.Close()
	defer pod.Close()
	end, err := attach.HostEnd(ctx, r, node, pod)
	if err != nil {
		return cni.Errorf(cni.ErrConfig, "%w; state %s after a plugin that makes a veth pair, such as bridge or ptp", err, r.Type)
	}
	listed := func(i cni.Interface) bool { return i.Name == end.Name && i.Sandbox == "" }
	if !strings.HasPrefix(r.Version, "0.1") && !strings.HasPrefix(r.Version, "0.2") && !slices.ContainsFunc(r.Prev.Interfaces, listed) {
		return cni.Errorf(cni.ErrConfig, `netconf: key "prevResult.interfaces" has no %s, the host end of %s`, end.Name, r.IfName)
	}
	if r.Verb == cni.ADD && errors.Join(l.Out.Validate(end.MTU), l.In.Validate(end.MTU)) != nil { // the reference has taken it
		_, err := limits(r, end.MTU)
		return err
	}
	return f(node, attach.Shaped(r.Network, r.Attachment(), end.Name), l)
}

func apply(ctx context.Context, r *cni.Request) error {
	return begin(ctx, r, func(node *netns.NS, d shape.Device, l shape.Limits) error {
		helper, err := shape.Ensure(ctx, node, d, l)
		if err == nil && helper.Index != 0 {
			r.Prev.Interfaces = append(r.Prev.Interfaces, cni.Interface{Name: helper.Name, MAC: helper.MAC.String(), MTU: helper.MTU})
		}
		return err
	})
}

func verify(ctx context.Context, r *cni.Request) error {
	return begin(ctx, r, func(node *netns.NS, d shape.Device, l shape.Limits) error { return shape.Check(ctx, node, d, l) })
}

func revoke(ctx context.Context, r *cni.Request) error {
	node, err := netns.Current()
	if err != nil {
		return err
	}
	defer node.Close()
	end, err := attach.HostEnd(ctx, r, node, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return shape.Revoke(ctx, node, attach.Shaped(r.Network, r.Attachment(), end.Name))
}

func retain(ctx context.Context, r *cni.Request) error {
	node, err := netns.Current()
	if err != nil {
		return err
	}
	defer node.Close()
	return shape.Retain(ctx, node, link.AliasPrefix(r.Network), attach.Aliases(r))
}

func ready(ctx context.Context, r *cni.Request) error {
	if _, err := limits(r, 0); err != nil {
		return err
	}
	return shape.Supported(ctx)
}
