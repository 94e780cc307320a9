//go:build linux

// Package attach is what every main plugin does, whatever interface it makes: it reads the keys that all have, has the
// IPAM plugin give addresses, configures the interface, masquerades, checks all that, and takes it away again.
//
//	type conf struct{ attach.Conf }
//
//	func add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
//		p, err := attach.Begin(r, &conf{})
//		if err != nil {
//			return nil, err
//		}
//		defer p.Close()
//		defer p.OnError(ctx, &err)
//		pair, err := p.Veth(ctx, p.Pair(), 0)
//		...
//
// Plugins "bridge" and "ptp" are made of it. Those whose interface has no end on the node are a [Device]. Out of scope: what the
// host end of the interface is for.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/shape"
	"github.com/cniblocks/cniblocks/veth"
)

// Pod is one request about an attachment, or about all of a network, under way. It is large since each thing that main plugins
// have to do is a method of it.
type Pod struct {
	*cni.Request
	Node, NS *netns.NS  // NS is the container's; nil for the verbs that work without it
	IPAM     cni.Plugin // nil if the netconf names none
	Host     string     // name of the host end, see [link.HostName]
	Alias    string     // of the host end, see [link.Alias]
	MAC      inet.MAC   // what the runtime or the user asks for; may be zero
	Pools    []ipam.Pool

	// Partial: the configuration became wrong, and what could be read of it is here. Only DEL and GC go on then.
	Partial bool

	// What the plugin states after [Begin].
	Gateway   Gateway
	Reference Reference

	conf   *Common
	snat   *Conf
	device *link.Spec // of a [Device]: what is in the container; nil for pairs
	undo   undo.Stack
	rule   Rule // of the SNAT
	delete func(ctx context.Context, ns *netns.NS, index int) error
}

// Gateway says what the node is to its pods. The zero value is nothing: pods have the gateways that the IPAM plugin gives.
type Gateway struct {
	Why     string // the node is their gateway: which key says so, for messages; empty: it is not
	Default bool   // it gets their default route
	Wire    string // on what others answer for addresses too, for messages: "bridge cni0"; empty: on nothing
}

// Reference is what the reference plugin of the same name leaves, which may have made an attachment that is ours to check
// and to delete.
type Reference struct {
	// Made reports whether an interface of the node without an alias of ours can be the host end of such an attachment;
	// nil: none is.
	Made func(context.Context, link.Link) (bool, error)
	// Remove removes what that plugin keeps for an attachment beside its device and SNAT; may be nil.
	Remove func(ctx context.Context, containerID, ifName string) error
}

// Begin is [Read] and [Pod.Open].
func Begin(r *cni.Request, c Netconf) (*Pod, error) {
	p, err := Read(r, c)
	if err != nil {
		return nil, err
	}
	return p, p.Open()
}

// Read reads and checks the whole configuration into c, so that nothing is changed for a wrong one. What was added must
// go, whatever the configuration became: DEL and GC get what can be read of it, and a warning.
func Read(r *cni.Request, c Netconf) (*Pod, error) {
	p := &Pod{Request: r, conf: c.common(), snat: c.snat(), Alias: link.Alias(r.Network, r.ContainerID, r.IfName), delete: veth.DeleteIndex}
	if r.IfName != "" {
		p.Host = link.HostName(r.Network, r.ContainerID, r.IfName)
	}
	return p, p.read(c)
}

// Open finds the IPAM plugin and opens the namespaces.
func (p *Pod) Open() (err error) {
	if p.IPAM, err = p.Request.IPAM(); err == nil {
		p.Node, p.NS, err = p.Namespaces()
	}
	return err
}

func (p *Pod) read(c Netconf) error {
	err := p.Decode(c)
	if err == nil {
		err = p.validate()
	}
	if err == nil {
		err = c.Validate(p.Request)
	}
	if err == nil || p.Verb != cni.DEL && p.Verb != cni.GC {
		return err
	}
	if p.DecodeLeast(c) != nil {
		return err
	}
	p.Warn("%v", err)
	p.conf.IPAM.Type = p.Kind(p.conf.IPAM.Type)
	p.Partial, p.Pools = true, nil
	return nil
}

// Close closes the namespaces.
func (p *Pod) Close() {
	p.Node.Close()
	p.NS.Close()
}

// Owner names the attachment among those of its network.
func (p *Pod) Owner() string { return Owner(p.Attachment()) }

// Owner names an attachment among those of its network: the owner of addresses in its SNAT.
func Owner(a cni.Attachment) string { return a.ContainerID + "/" + a.IfName }

// SetDelete has f remove interfaces of the node, by their index, in place of [veth.DeleteIndex]: it returns when the name and
// the addresses are free. Nil changes nothing.
func (p *Pod) SetDelete(f func(ctx context.Context, ns *netns.NS, index int) error) {
	if f != nil {
		p.delete = f
	}
}

// Undo adds a step that takes back what was just done, should the ADD fail.
func (p *Pod) Undo(step func(context.Context) error) { p.undo.Push(step) }

// OnError takes back what was done, newest first, if *err is set, and joins the errors of that to it. It is to be deferred,
// once, after [Pod.Close]. It has a deadline of its own, and a panic passes through.
func (p *Pod) OnError(ctx context.Context, err *error) { p.undo.After(ctx, err, recover()) }

// Pair is the attachment as a pair that [Pod.Veth] makes: both ends of the MTU of the netconf.
func (p *Pod) Pair() veth.Pair {
	mac := p.MAC
	if p.throughInterface() {
		mac = p.ChooseMAC(nil, true)
	}
	return veth.Pair{Host: veth.End{NS: p.Node, Name: p.Host, MTU: p.conf.MTU},
		Pod: veth.End{NS: p.NS, Name: p.IfName, MTU: p.conf.MTU, MAC: mac}, Alias: p.Alias}
}

// throughInterface reports whether the IPAM plugin speaks with others through the pod's interface: it must have its MAC before
// the ADD of the IPAM plugin, and be there at its DEL.
func (p *Pod) throughInterface() bool { return p.conf.IPAM.Type == "dhcp" }

// Veth makes the pair, with its host end a port of the device of an index, if that is not 0. This is the exclusive step
// that guards all others: of two ADDs of one attachment one fails here.
func (p *Pod) Veth(ctx context.Context, pair veth.Pair, master int) (veth.Pair, error) {
	pair, err := veth.CreateOn(ctx, pair, master)
	switch {
	case errors.Is(err, fs.ErrExist):
		return pair, cni.Errorf(cni.ErrConfig, "CNI_IFNAME=%s of container %s: %w", p.IfName, p.ContainerID, err)
	case err == nil:
		p.Undo(p.detach)
	}
	return pair, err
}

// detach removes the interface; one that is gone is fine.
func (p *Pod) detach(ctx context.Context) error {
	if p.device != nil {
		return link.Remove(ctx, p.NS, *p.device)
	}
	l, err := link.Get(ctx, p.Node, p.Host)
	if err == nil && l.Kind == "veth" { // the name is a pair's: whatever else bears it is not the attachment
		err = p.delete(ctx, p.Node, l.Index)
	}
	return rtnl.Except(err, fs.ErrNotExist)
}

// Addresses has the IPAM plugin give addresses to the interface of an index in res, adds them, the routes and the DNS to
// res, and completes them with what follows from p.Gateway.
func (p *Pod) Addresses(ctx context.Context, res *cni.Result, index int) error {
	if p.IPAM != nil {
		if err := p.lease(ctx, res, index); err != nil {
			return err
		}
	}
	if p.conf.DNS != nil {
		res.DNS = *p.conf.DNS
	}
	return nil
}

func (p *Pod) lease(ctx context.Context, res *cni.Result, index int) error {
	release := func(ctx context.Context) error {
		if p.throughInterface() {
			return errors.Join(p.IPAM.Del(ctx, p.Request), p.detach(ctx))
		}
		// The device goes before its address returns to the pool.
		return errors.Join(p.detach(ctx), p.IPAM.Del(ctx, p.Request))
	}
	got, err := p.IPAM.Add(ctx, p.Request)
	if err != nil {
		return undo.Back(ctx, err, func(ctx context.Context) error {
			back := release(ctx)
			var was, is syscall.Errno
			if errors.As(err, &was) && errors.As(back, &is) && was == is {
				back = nil // the same cause
			}
			return back
		})
	}
	p.Undo(release)
	if len(got.IPs) == 0 {
		return cni.Errorf(cni.ErrConfig, "IPAM plugin %q gave no address", p.conf.IPAM.Type)
	}
	for i := range got.IPs {
		got.IPs[i].Interface = index
	}
	res.IPs, res.Routes, res.DNS = got.IPs, got.Routes, got.DNS
	return p.Complete(res)
}

// HostLocal reports whether the addresses are leases of host-local, whose ranges are p.Pools.
func (p *Pod) HostLocal() bool { return p.conf.IPAM.Type == hostLocal }

func (p *Pod) leases() ipam.Dir { return ipam.Dir{DataDir: p.conf.IPAM.DataDir, Network: p.Network} }

// Remove takes the attachment away, for DEL. It needs neither the namespace nor prevResult nor the ranges, and goes on
// after an error: whatever can go goes. It returns the host end as it was; the zero Link if there was none. Ours is false
// if the reference may have made the attachment: see [Pod.RemoveReference].
func (p *Pod) Remove(ctx context.Context) (was link.Link, ours bool, err error) {
	var lease error
	first := p.IPAM != nil && p.throughInterface()
	if first {
		lease = p.IPAM.Del(ctx, p.Request)
	}
	was, ours, device := p.removeDevice(ctx)
	if device == nil && p.IPAM != nil && !first { // an address must not return to the pool while a device bears it
		lease = p.IPAM.Del(ctx, p.Request)
	}
	err = errors.Join(device, lease)
	if !p.HostLocal() && p.IPAM != nil {
		err = errors.Join(err, Forget(ctx, p.Node, p.Network, p.Owner()))
	}
	return was, ours, err
}

// RemoveAll is [Pod.Remove] and [Pod.RemoveReference], for plugins that keep nothing else on the node.
func (p *Pod) RemoveAll(ctx context.Context) error {
	_, ours, err := p.Remove(ctx)
	if !ours {
		err = errors.Join(err, p.RemoveReference(ctx))
	}
	return err
}

// RemoveReference removes, for DEL, what the reference keeps on the node for an attachment that it made, beside the device.
func (p *Pod) RemoveReference(ctx context.Context) error {
	return p.removeReference(ctx, p.Attachment(), addrs(p.PrevIPs()))
}

// removeDevice removes our pair, which its name tells, or the one that the reference made, which the pod's namespace
// tells, as it does a [Device].
func (p *Pod) removeDevice(ctx context.Context) (was link.Link, ours bool, err error) {
	if p.device == nil {
		l, err := link.Get(ctx, p.Node, p.Host)
		if err == nil {
			if l.Group == shape.Group {
				err = shape.Revoke(ctx, p.Node, Shaped(p.Network, p.Attachment(), l.Name))
			}
			return l, true, errors.Join(err, rtnl.Except(p.delete(ctx, p.Node, l.Index), fs.ErrNotExist))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return link.Link{}, false, err
		}
	}
	if p.NetNS == "" {
		return link.Link{}, false, nil
	}
	pod, err := netns.Open(p.NetNS)
	if err != nil {
		return link.Link{}, false, nil // the namespace is gone, or was none: its interfaces went with it
	}
	defer pod.Close()
	switch {
	case pod.Same(p.Node) && (p.device == nil || !p.NodeNetNS):
		return link.Link{}, false, nil
	case p.device != nil:
		return link.Link{}, true, link.Remove(ctx, pod, *p.device)
	}
	end, ok, err := p.referenceEnd(ctx, pod)
	if err != nil || !ok {
		return link.Link{}, false, err
	}
	return end, false, rtnl.Except(p.delete(ctx, p.Node, end.Index), fs.ErrNotExist)
}

// referenceEnd finds the host end of the pod's interface if it bears no alias of ours and is what the reference makes: an
// attachment of another network is not taken for it.
func (p *Pod) referenceEnd(ctx context.Context, pod *netns.NS) (link.Link, bool, error) {
	if p.Reference.Made == nil {
		return link.Link{}, false, nil
	}
	end, err := veth.HostEnd(ctx, p.Node, pod, p.IfName)
	if err != nil || end.Alias != "" {
		return link.Link{}, false, rtnl.Except(err, fs.ErrNotExist)
	}
	ok, err := p.Reference.Made(ctx, end)
	return end, ok && err == nil, rtnl.Except(err, fs.ErrNotExist)
}

// Collect takes away every attachment of the network that the runtime no longer has, for GC: devices first, then more, then
// their SNAT, then their addresses. It goes on after an error.
func (p *Pod) Collect(ctx context.Context, more ...func(context.Context) error) error {
	devices := link.Retain(ctx, p.Node, "veth", p.Network, p.Aliases()...)
	errs := []error{devices, shape.Retain(ctx, p.Node, link.AliasPrefix(p.Network), p.Aliases())}
	for _, f := range more {
		errs = append(errs, f(ctx))
	}
	errs = append(errs, p.collectReference(ctx), p.collectMasq(ctx))
	if p.IPAM != nil && devices == nil {
		errs = append(errs, p.IPAM.GC(ctx, p.Request))
	}
	return errors.Join(errs...)
}

// Aliases are those of the attachments that the runtime still has.
func (p *Pod) Aliases() []string { return Aliases(p.Request) }

// Aliases are those of the attachments that the runtime still has.
func Aliases(r *cni.Request) (keep []string) {
	for _, a := range r.Valid {
		keep = append(keep, link.Alias(r.Network, a.ContainerID, a.IfName))
	}
	return keep
}

// Status fails if an ADD could not succeed now: no usable SNAT backend, an IPAM plugin that is missing or says so itself.
func (p *Pod) Status(ctx context.Context) error {
	if err := p.masqStatus(ctx); err != nil {
		return cni.Unavailable(err)
	}
	if p.IPAM != nil {
		return p.IPAM.Status(ctx, p.Request)
	}
	return nil
}

// Wrong gives the code of a state that is not as it should be, for CHECK: the runtime may try again, with a new ADD.
func Wrong(err error) error {
	var e *cni.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return cni.Errorf(cni.ErrIO, "%w", err)
}

// Findings are differences, in the order in which they are told.
type Findings []error

// Add adds one if there is a difference.
func (f *Findings) Add(differs bool, format string, a ...any) {
	if differs {
		*f = append(*f, fmt.Errorf(format, a...))
	}
}
