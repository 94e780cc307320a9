// Package flannel is the CNI plugin "flannel": it has a delegate attach pods to this node's range of a flannel network,
// which it learns from subnet.env, whoever wrote that: flanneld or the node agent.
//
// It takes the netconf of flannel's own plugin (github.com/flannel-io/cni-plugin) and deletes what that one added. See
// docs/plugins/flannel.md.
package flannel

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/netns"
)

// Plugin is the flannel plugin. The zero value is ready to use.
type Plugin struct{}

var _ cni.Plugin = Plugin{}

// Add keeps on record what the delegate is asked, and has it attach the pod.
func (Plugin) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	to, err := c.present(r)
	if err != nil {
		return nil, err
	}
	release, err := hold(ctx, r, to.Type)
	if err != nil {
		return nil, err
	}
	defer release()
	var u undo.Stack
	defer u.OnError(ctx, &err)
	rec := c.record(r)
	first, err := rec.create(r, to.Config)
	if err != nil {
		return nil, err
	}
	back := func(ctx context.Context) error {
		if err := to.Plugin.Del(ctx, to.Request); err != nil {
			return err // the record stays, for the next DEL
		}
		return rec.remove()
	}
	if first { // else what there is may be an earlier ADD's
		u.Push(back)
	}
	res, err := to.Plugin.Add(ctx, to.Request)
	if err != nil || first {
		return res, err
	}
	u.Push(back)
	return res, rec.replace(r, to.Config)
}

// hold keeps other ADDs of the pod waiting until it is released: of two at once the second finds the record of the first,
// and leaves it and the attachment alone. Carriers of ours, which would be an odd delegate, take the lock themselves.
func hold(ctx context.Context, r *cni.Request, delegate string) (release func(), err error) {
	if slices.Contains([]string{"overlay", "host-gw", "flannel"}, r.Kind(delegate)) {
		return func() {}, nil
	}
	pod, err := netns.Open(r.NetNS)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, cni.Errorf(cni.ErrUnknownContainer, "CNI_NETNS: %w", err)
	case err != nil:
		return nil, cni.Errorf(cni.ErrEnvironment, "CNI_NETNS: %w", err)
	}
	unlock, err := pod.Lock(ctx)
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	return func() { unlock(); pod.Close() }, nil
}

// Del has the delegate take the attachment away. It needs neither the record nor subnet.env.
func (Plugin) Del(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	to, err := c.made(r)
	if err != nil {
		return err
	}
	if err := to.Plugin.Del(ctx, to.Request); err != nil {
		return err
	}
	return c.record(r).remove()
}

// Check has the delegate compare the attachment with what it was made as: a new range of this node is for new pods.
func (Plugin) Check(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	to, err := c.made(r)
	if err != nil {
		return err
	}
	return to.Plugin.Check(ctx, to.Request)
}

// Status fails if an ADD could not succeed now: no subnet.env, or the delegate says so.
func (Plugin) Status(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	to, err := c.present(r)
	if err != nil { // the netconf is fine: it is the node's subnet.env, or the delegate's program
		return cni.Errorf(cni.ErrNotAvailable, "%w", err)
	}
	return to.Plugin.Status(ctx, to.Request)
}

// GC deletes every attachment on record that the runtime no longer has, and has the delegate collect its garbage. It goes
// on after an error.
func (p Plugin) GC(ctx context.Context, r *cni.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	valid, stale, err := records(c.DataDir, r.Network, r.Valid)
	errs := []error{err}
	for _, a := range stale {
		one, err := r.With(cni.DEL, nil)
		if err == nil {
			one.ContainerID, one.IfName, one.NetNS = a.ContainerID, a.IfName, ""
			err = p.Del(ctx, one)
		}
		errs = append(errs, err)
	}
	to, err := c.forGC(r, valid)
	if err == nil {
		err = to.Plugin.GC(ctx, to.Request)
	}
	return errors.Join(append(errs, err, sweep(c.DataDir, r.Network))...)
}
