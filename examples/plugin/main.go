// Program plugin is a complete CNI plugin of public packages alone: without a bridge, the node routes to each pod.
package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/veth"
)

type routed struct{}

func main() { cni.Main(routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}}) }

// gateway is the node as pods see it, on the host end of every pair.
var gateway = map[inet.Family]netip.Prefix{inet.IPv4: netip.MustParsePrefix("169.254.1.1/32"), inet.IPv6: netip.MustParsePrefix("fe80::1/128")}

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
	return f(veth.Pair{Host: veth.End{NS: node, Name: link.HostName(r.Network, r.ContainerID, r.IfName)},
		Pod: veth.End{NS: pod, Name: r.IfName}, Alias: link.Alias(r.Network, r.ContainerID, r.IfName)}, ipam)
}

// state is what the addresses consist of: changes on the node and in the pod for Add, the same to be found for Check.
type state struct {
	node, pod []link.Change
	addrs     [2][]netip.Prefix // node, pod
	routes    [2][]route.Route
}

func wanted(p veth.Pair, ips []cni.IP) (s state) {
	for i := range ips {
		a := ips[i].Address.Addr()
		f := inet.FamilyOf(a)
		own, gw := netip.PrefixFrom(a, a.BitLen()), gateway[f]
		ips[i] = cni.IP{Address: own, Gateway: gw.Addr(), Interface: 1}
		in, out := route.Route{Dst: own}, route.Route{Dst: f.Default(), Via: gw.Addr(), OnLink: true}
		s.node = append(s.node, addr.Add(p.Host.Index, gw), route.Add(p.Host.Index, in))
		s.pod = append(s.pod, addr.Add(p.Pod.Index, own), route.Add(p.Pod.Index, out))
		s.addrs = [2][]netip.Prefix{append(s.addrs[0], gw), append(s.addrs[1], own)}
		s.routes = [2][]route.Route{append(s.routes[0], in), append(s.routes[1], out)}
	}
	return s
}

func (routed) Add(ctx context.Context, r *cni.Request) (res *cni.Result, err error) {
	err = with(r, func(p veth.Pair, ipam cni.Plugin) error {
		if p, err = veth.Create(ctx, p); err != nil {
			return err // the exclusive step comes first: a second ADD ends here and harms nobody
		}
		if res, err = ipam.Add(ctx, r); err == nil {
			res.Interfaces, res.Routes = []cni.Interface{{Name: p.Host.Name}, {Name: p.Pod.Name, Sandbox: r.NetNS}}, nil
			w := wanted(p, res.IPs)
			err = errors.Join(link.Apply(ctx, p.Pod.NS, append([]link.Change{link.Up(p.Pod.Index)}, w.pod...)...),
				link.Apply(ctx, p.Host.NS, w.node...), route.Forward(ctx, p.Host.NS, inet.IPv4, inet.IPv6))
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
		w := wanted(p, r.PrevIPs())
		return errors.Join(err, addr.Check(ctx, p.Host.NS, p.Host.Name, w.addrs[0]...), addr.Check(ctx, p.Pod.NS, p.Pod.Name, w.addrs[1]...),
			route.CheckLink(ctx, p.Host.NS, p.Host.Name, w.routes[0]...), route.CheckLink(ctx, p.Pod.NS, p.Pod.Name, w.routes[1]...), ipam.Check(ctx, r))
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
			keep = append(keep, link.Alias(r.Network, a.ContainerID, a.IfName))
		}
		return errors.Join(veth.Retain(ctx, p.Host.NS, r.Network, keep...), ipam.GC(ctx, r))
	})
}
