package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

// configure sets the pod's end up with its addresses and routes, in one system call, and returns its MAC.
func (j *job) configure(ctx context.Context, pair veth.Pair, res *cni.Result, mac inet.MAC) (inet.MAC, error) {
	if err := j.podSysctls(res); err != nil {
		return mac, err
	}
	index := pair.Pod.Index
	var changes []link.Change
	if !j.DisableContainerInterface || mac != (inet.MAC{}) {
		// The MAC is set before the link is up, in the same message.
		changes = append(changes, link.Set(index, link.Settings{MAC: mac, Up: !j.DisableContainerInterface}))
	}
	// Only now the addresses: of those that are there when a link comes up, the kernel makes the routes in a hurry, and
	// where it has no memory ready for them drops the address.
	add := addr.Add
	if j.EnableDAD {
		add = addr.AddDetected
	}
	for _, ip := range res.IPs {
		changes = append(changes, add(index, ip.Address))
	}
	var routes []route.Route
	for _, r := range res.Routes {
		if one := podRoute(r, res); !slices.Contains(routes, one) { // stated twice, it is one
			routes = append(routes, one)
			changes = append(changes, route.Add(index, one))
		}
	}
	if err := link.Apply(ctx, j.pod, changes...); err != nil {
		return mac, fmt.Errorf("configure %s in %s: %w", j.IfName, j.NetNS, rtnl.First(err))
	}
	if j.EnableDAD {
		if err := addr.Settle(ctx, j.pod, index); err != nil {
			return mac, err
		}
	}
	if mac == (inet.MAC{}) {
		l, err := link.At(ctx, j.pod, index)
		return l.MAC, err
	}
	return mac, nil
}

// podMAC is the address that the pod's end gets: the stated one, else one that derives from its IP address. Where there is
// neither it is the kernel's choice, save where it must be known before the link is up.
func (j *job) podMAC(res *cni.Result) inet.MAC {
	switch {
	case j.mac != inet.MAC{}:
		return j.mac
	case len(res.IPs) > 0:
		return link.MACFor(j.Network, res.IPs[0].Address.Addr().String())
	case j.MACSpoofChk:
		return link.MACFor(j.Network, j.owner())
	}
	return inet.MAC{}
}

// podRoute completes a route of the result: without a next hop it goes to the gateway of its family, if there is one, as
// the reference has it; a next hop outside the pod's subnets is on the link all the same, which the kernel knows of link-local ones of IPv6 only.
func podRoute(r cni.Route, res *cni.Result) route.Route {
	out := route.Route{Dst: r.Dst, Via: r.GW, MTU: uint32(r.MTU), AdvMSS: uint32(r.AdvMSS), Metric: uint32(r.Priority),
		Table: uint32(r.Table), Scope: uint8(r.Scope)}
	for _, ip := range res.IPs {
		if !out.Via.IsValid() && out.Scope != unix.RT_SCOPE_LINK && ip.Gateway.IsValid() && ip.Gateway.Is4() == r.Dst.Addr().Is4() {
			out.Via = ip.Gateway
		}
	}
	out.OnLink = out.Via.IsValid() && !(out.Via.Is6() && out.Via.IsLinkLocalUnicast())
	for _, ip := range res.IPs {
		if ip.Address.Contains(out.Via) {
			out.OnLink = false
		}
	}
	return out
}

// podSysctls lets the interface carry IPv6 if it is to have an address of it, as the reference does: switched on where a
// runtime switched it off, addresses kept while the link is down.
func (j *job) podSysctls(res *cni.Result) error {
	v6 := false
	for _, ip := range res.IPs {
		v6 = v6 || ip.Address.Addr().Is6()
	}
	if !v6 {
		return nil
	}
	dad := "0"
	if j.EnableDAD {
		dad = "1"
	}
	of := func(link, key, value string) sysctl.Var {
		return sysctl.Var{Key: "net/ipv6/conf/" + link + "/" + key, Value: value}
	}
	err := sysctl.Ensure(j.pod, of("lo", "disable_ipv6", "0"), of(j.IfName, "disable_ipv6", "0"),
		of(j.IfName, "keep_addr_on_down", "1"), of(j.IfName, "accept_dad", dad))
	if errors.Is(err, fs.ErrNotExist) {
		return cni.Errorf(cni.ErrConfig, "netconf: an IPv6 address is configured and the kernel has no IPv6: remove the IPv6 range or boot without ipv6.disable=1 (%w)", err)
	}
	return err
}
