// Program plugin is a complete CNI plugin of public packages alone: without a bridge, the node routes to each pod, which has
// its address alone and a gateway that is the same for all.
package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/route"
)

type routed struct{}

func main() { cni.Main(routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}}) }

// gateway is the node as pods see it, on the host end of every pair.
var gateway = map[inet.Family]netip.Prefix{inet.IPv4: netip.MustParsePrefix("169.254.1.1/32"), inet.IPv6: netip.MustParsePrefix("fe80::1/128")}

// with calls f with the attachment that a request is about.
func with(r *cni.Request, f func(*attach.Pod) error) error {
	p, err := attach.Begin(r, &attach.Addressed{})
	if err != nil {
		return err
	}
	defer p.Close()
	return f(p)
}

// wanted is what the addresses consist of: on the node the gateways and the routes to the pod, in the pod its own addresses
// and the default routes.
func wanted(ips []cni.IP) (gateways []netip.Prefix, node, pod []route.Route) {
	for i := range ips {
		a := ips[i].Address.Addr()
		f := inet.FamilyOf(a)
		own, gw := netip.PrefixFrom(a, a.BitLen()), gateway[f]
		ips[i].Address, ips[i].Gateway = own, gw.Addr()
		gateways, node = append(gateways, gw), append(node, route.Route{Dst: own})
		pod = append(pod, route.Route{Dst: f.Default(), Via: gw.Addr(), OnLink: true})
	}
	return gateways, node, pod
}

func (routed) Add(ctx context.Context, r *cni.Request) (res *cni.Result, err error) {
	err = with(r, func(p *attach.Pod) (err error) {
		if err := p.OpenMasq(ctx); err != nil { // key "ipMasq"
			return err
		}
		defer p.OnError(ctx, &err)
		pair, err := p.Veth(ctx, p.Pair(), 0) // the exclusive step comes first: a second ADD ends here and harms nobody
		if err != nil {
			return err
		}
		res = &cni.Result{Interfaces: []cni.Interface{{Name: pair.Host.Name}, {Name: pair.Pod.Name, Sandbox: r.NetNS}}}
		if err := p.Addresses(ctx, res, 1); err != nil {
			return err
		}
		gateways, node, pod := wanted(res.IPs)
		res.Routes = nil
		_, err = p.Configure(ctx, pair.Pod.Index, attach.Setup{IPs: res.IPs, Routes: pod})
		return errors.Join(err, p.ConfigureHost(ctx, pair.Host, gateways, node), route.Forward(ctx, p.Node, attach.Families(res.IPs)...),
			p.Masquerade(ctx, res.IPs), p.Carrier(ctx, pair.Host, 0))
	})
	return res, err
}

func (routed) Check(ctx context.Context, r *cni.Request) error {
	return with(r, func(p *attach.Pod) error {
		if err := r.NeedPrev(); err != nil {
			return err
		}
		ends, err := p.Find(ctx)
		gateways, node, pod := wanted(r.PrevIPs())
		return errors.Join(err, p.CheckEnds(ends, false), p.CheckAddresses(ctx), route.CheckLink(ctx, p.NS, r.IfName, pod...), p.CheckLease(ctx),
			addr.Check(ctx, p.Node, p.Host, gateways...), route.CheckLink(ctx, p.Node, p.Host, node...), p.CheckMasq(ctx, ends), p.CheckProperties(ends, false))
	})
}

func (routed) Del(ctx context.Context, r *cni.Request) error {
	return with(r, func(p *attach.Pod) error { return p.RemoveAll(ctx) })
}

func (routed) Status(ctx context.Context, r *cni.Request) error {
	return cni.Unavailable(with(r, func(p *attach.Pod) error { return p.Status(ctx) }))
}

func (routed) GC(ctx context.Context, r *cni.Request) error {
	return with(r, func(p *attach.Pod) error { return p.Collect(ctx) })
}
