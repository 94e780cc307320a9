// Package ptp is the CNI plugin "ptp": it attaches a container to the node by a veth pair of its own, without a bridge. The
// node routes to each container, and is its gateway.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/ptp.md.
package ptp

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
)

// Plugin is the ptp plugin. The zero value is ready to use; Remove is that of the bridge plugin.
type Plugin struct {
	Remove func(ctx context.Context, ns *netns.NS, index int) error
}

// with calls f with the attachment that a request is about.
func (p Plugin) with(r *cni.Request, f func(*attach.Pod) error) error {
	pod, err := p.begin(r)
	if err != nil {
		return err
	}
	defer pod.Close()
	return f(pod)
}

func (p Plugin) begin(r *cni.Request) (*attach.Pod, error) {
	pod, err := attach.Begin(r, &attach.Addressed{})
	if err != nil {
		return nil, err
	}
	pod.SetDelete(p.Remove)
	pod.Gateway.Why = `"ptp" makes the node the gateway`
	pod.Reference.Made = func(ctx context.Context, l link.Link) (bool, error) { // the host end bears the gateway
		have, err := addr.List(ctx, pod.Node, l.Name)
		return l.Master == 0 && slices.ContainsFunc(have, netip.Prefix.IsSingleIP), err
	}
	return pod, nil
}

// wire is what the addresses need on both ends: the gateways and the routes to the pod on the node, and in the pod the
// gateway on the wire, and all else of the subnet by way of it: the neighbours are behind the node.
func wire(ips []cni.IP) (gateways []netip.Prefix, node, pod []route.Route) {
	for _, ip := range ips {
		gw, own := netip.PrefixFrom(ip.Gateway, ip.Gateway.BitLen()), netip.PrefixFrom(ip.Address.Addr(), ip.Address.Addr().BitLen())
		if !slices.Contains(gateways, gw) {
			gateways = append(gateways, gw)
		}
		node = append(node, route.Route{Dst: own})
		pod = append(pod, route.Route{Dst: gw, Src: own.Addr(), Scope: unix.RT_SCOPE_LINK})
		if !ip.Address.IsSingleIP() {
			pod = append(pod, route.Route{Dst: ip.Address.Masked(), Via: gw.Addr(), Src: own.Addr()})
		}
	}
	return gateways, node, pod
}

// Add attaches the container. It is a transaction: if a step fails the steps before it are taken back, save what belongs
// to the network: the SNAT rule, forwarding.
func (p Plugin) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	pod, err := p.begin(r)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	if err := pod.OpenMasq(ctx); err != nil {
		return nil, err
	}
	defer pod.OnError(ctx, &err)
	pair, err := pod.Veth(ctx, pod.Pair(), 0)
	if err != nil {
		return nil, err
	}
	res := &cni.Result{Interfaces: []cni.Interface{{Name: pair.Host.Name, MAC: pair.Host.MAC.String(), MTU: pair.Host.MTU},
		{Name: pair.Pod.Name, MTU: pair.Pod.MTU, Sandbox: r.NetNS}}}
	if err := pod.Addresses(ctx, res, 1); err != nil {
		return nil, err
	}
	gateways, node, in := wire(res.IPs)
	if err := pod.ConfigureHost(ctx, pair.Host, gateways, node); err != nil {
		return nil, err
	}
	setup := attach.Setup{MAC: pod.ChooseMAC(res.IPs, false), IPs: res.IPs, Routes: append(in, attach.Routes(res.Routes, res.IPs)...), Alone: true}
	mac, err := pod.Configure(ctx, pair.Pod.Index, setup)
	if err != nil {
		return nil, err
	}
	res.Interfaces[1].MAC = mac.String()
	if err := errors.Join(route.Forward(ctx, pod.Node, attach.Families(res.IPs)...), pod.Masquerade(ctx, res.IPs),
		addr.Live(ctx, pod.NS, attach.Prefixes(res.IPs)...), addr.Live(ctx, pod.Node, gateways...)); err != nil {
		return nil, err
	}
	pod.WarnShared(ctx, "this node", res.IPs, nil)
	return res, pod.Carrier(ctx, pair.Host, 0)
}

// Check compares every object that Add made with what it should be, and names every difference.
func (p Plugin) Check(ctx context.Context, r *cni.Request) error {
	return p.with(r, func(pod *attach.Pod) error {
		res := &cni.Result{IPs: r.PrevIPs()}
		if err := cmp.Or(r.NeedPrev(), pod.Complete(res)); err != nil {
			return err
		}
		gateways, node, in := wire(res.IPs)
		ends, err := pod.Find(ctx)
		found := []error{err, pod.CheckEnds(ends, false)}
		if ends.Pod.Index != 0 {
			found = append(found, pod.CheckAddresses(ctx), route.CheckLink(ctx, pod.NS, r.IfName, in...))
		}
		if ends.Host.Index != 0 {
			found = append(found, addr.Check(ctx, pod.Node, ends.Host.Name, gateways...), route.CheckLink(ctx, pod.Node, ends.Host.Name, node...))
		}
		found = append(found, route.CheckForward(ctx, pod.Node, attach.Families(res.IPs)...), pod.CheckLease(ctx), pod.CheckMasq(ctx, ends), pod.CheckProperties(ends, false))
		return attach.Wrong(errors.Join(found...))
	})
}

// Del takes the attachment away. It needs neither the namespace nor prevResult nor the ranges.
func (p Plugin) Del(ctx context.Context, r *cni.Request) error {
	return p.with(r, func(pod *attach.Pod) error { return pod.RemoveAll(ctx) })
}

// GC takes away every attachment of this network that the runtime no longer has.
func (p Plugin) GC(ctx context.Context, r *cni.Request) error {
	return p.with(r, func(pod *attach.Pod) error { return pod.Collect(ctx) })
}

// Status fails if an ADD could not succeed now.
func (p Plugin) Status(ctx context.Context, r *cni.Request) error {
	return cni.Unavailable(p.with(r, func(pod *attach.Pod) error {
		pod.WarnShared(ctx, "this node", nil, nil)
		return pod.Status(ctx)
	}))
}
