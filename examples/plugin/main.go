// Program plugin is a complete CNI plugin of public packages alone: without a bridge, the node routes to each pod.
package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/veth"
)

type routed struct{}

func main() { cni.Main(routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}}) }

// gateway is the node as pods see it, on the host end of every pair; the key says whether they see it over IPv4.
var gateway = map[bool]netip.Prefix{true: netip.MustParsePrefix("169.254.1.1/32"), false: netip.MustParsePrefix("fe80::1/128")}

// with calls f with the pair that the request is about, and the plugin that gives addresses.
func with(r *cni.Request, f func(veth.Pair, cni.Plugin) error) error {
	ipam, err := r.IPAM()
	if err != nil || ipam == nil {
		return errors.Join(err, cni.Errorf(cni.ErrConfig, `netconf: key "ipam" is missing or wrong`))
	}
	node, pod, err := r.Namespaces()
	if err != nil {
		return err
	}
	defer func() { node.Close(); pod.Close() }()
	return f(veth.Pair{Host: veth.End{NS: node, Name: veth.HostName(r.Network, r.ContainerID, r.IfName)},
		Pod: veth.End{NS: pod, Name: r.IfName}, Alias: veth.Alias(r.Network, r.ContainerID, r.IfName)}, ipam)
}

// each goes through what the addresses consist of: Ensure and Check are two verbs for one list.
func each(ctx context.Context, p veth.Pair, ips []cni.IP, addrs func(context.Context, *netns.NS, string, ...netip.Prefix) error,
	routes func(context.Context, *netns.NS, string, ...route.Route) error) (err error) {
	for i := range ips {
		a := ips[i].Address.Addr()
		own, all, gw := netip.PrefixFrom(a, a.BitLen()), netip.PrefixFrom(a, 0).Masked(), gateway[a.Is4()]
		ips[i] = cni.IP{Address: own, Gateway: gw.Addr(), Interface: 1}
		err = errors.Join(err, addrs(ctx, p.Host.NS, p.Host.Name, gw), routes(ctx, p.Host.NS, p.Host.Name, route.Route{Dst: own}),
			addrs(ctx, p.Pod.NS, p.Pod.Name, own), routes(ctx, p.Pod.NS, p.Pod.Name, route.Route{Dst: all, Via: gw.Addr(), OnLink: true}))
	}
	return err
}

func (routed) Add(ctx context.Context, r *cni.Request) (res *cni.Result, err error) {
	err = with(r, func(p veth.Pair, ipam cni.Plugin) error {
		if _, err := veth.Create(ctx, p); err != nil {
			return err // the exclusive step comes first: a second ADD ends here and harms nobody
		}
		if res, err = ipam.Add(ctx, r); err == nil {
			res.Interfaces, res.Routes = []cni.Interface{{Name: p.Host.Name}, {Name: p.Pod.Name, Sandbox: r.NetNS}}, nil
			err = errors.Join(veth.SetUp(ctx, p.Pod.NS, p.Pod.Name), each(ctx, p, res.IPs, addr.Ensure, route.EnsureLink),
				route.Forward(ctx, p.Host.NS, route.IPv4, route.IPv6))
		}
		if err != nil {
			err = errors.Join(err, routed{}.Del(context.WithoutCancel(ctx), r))
		}
		return err
	})
	return res, err
}

func (routed) Check(ctx context.Context, r *cni.Request) error {
	return with(r, func(p veth.Pair, ipam cni.Plugin) error {
		_, err := veth.Check(ctx, p)
		return errors.Join(err, each(ctx, p, r.PrevIPs(), addr.Check, route.CheckLink), ipam.Check(ctx, r))
	})
}

func (routed) Del(ctx context.Context, r *cni.Request) error {
	return with(r, func(p veth.Pair, ipam cni.Plugin) error {
		if err := veth.Delete(ctx, p.Host.NS, p.Host.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // the address stays leased while a device bears it
		}
		return ipam.Del(ctx, r)
	})
}

func (routed) Status(ctx context.Context, r *cni.Request) error {
	return with(r, func(_ veth.Pair, ipam cni.Plugin) error { return ipam.Status(ctx, r) })
}

func (routed) GC(ctx context.Context, r *cni.Request) error {
	return with(r, func(p veth.Pair, ipam cni.Plugin) error {
		var keep []string
		for _, a := range r.Valid {
			keep = append(keep, veth.Alias(r.Network, a.ContainerID, a.IfName))
		}
		return errors.Join(veth.Retain(ctx, p.Host.NS, r.Network, keep...), ipam.GC(ctx, r))
	})
}
