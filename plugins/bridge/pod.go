package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/internal/wait"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

// configure sets the pod's end up with its addresses and routes, in one system call, and returns its MAC.
func (j *job) configure(ctx context.Context, pair veth.Pair, res *cni.Result, mac veth.MAC) (veth.MAC, error) {
	c, err := rtnl.Open(j.pod)
	if err != nil {
		return mac, err
	}
	if err := j.podSysctls(res); err != nil {
		return mac, err
	}
	index := pair.Pod.Index
	var msgs []*rtnl.Msg
	if !j.DisableContainerInterface || mac != (veth.MAC{}) {
		// The MAC is set before the link is up, in the same message.
		msgs = append(msgs, rtnl.SetLink(rtnl.Set{Index: index, MAC: mac, Up: !j.DisableContainerInterface}))
	}
	// Only now the addresses: of those that are there when a link comes up, the kernel makes the routes in a hurry, and
	// where it has no memory ready for them drops the address.
	for _, ip := range res.IPs {
		msgs = append(msgs, j.newAddr(index, ip))
	}
	var routes []route.Route
	for _, r := range res.Routes {
		if one := podRoute(r, res); !slices.Contains(routes, one) { // stated twice, it is one
			routes = append(routes, one)
			msgs = append(msgs, route.New(index, one))
		}
	}
	if err := ctx.Err(); err != nil {
		return mac, err
	}
	if len(msgs) > 0 {
		if err := c.Do(msgs...); err != nil {
			return mac, fmt.Errorf("configure %s in %s: %w", j.IfName, j.NetNS, rtnl.First(err))
		}
	}
	if j.EnableDAD {
		if err := settle(ctx, c, index); err != nil {
			return mac, err
		}
	}
	if mac == (veth.MAC{}) {
		l, err := c.LinkByIndex(index)
		return l.MAC, err
	}
	return mac, nil
}

// podMAC is the address that the pod's end gets: the stated one, else one that derives from its IP address. Where there is
// neither it is the kernel's choice, save where it must be known before the link is up.
func (j *job) podMAC(res *cni.Result) veth.MAC {
	switch {
	case j.mac != veth.MAC{}:
		return j.mac
	case len(res.IPs) > 0:
		return veth.MACFor(j.Network, res.IPs[0].Address.Addr().String())
	case j.MACSpoofChk:
		return veth.MACFor(j.Network, j.owner())
	}
	return veth.MAC{}
}

func (j *job) newAddr(index int, ip cni.IP) *rtnl.Msg {
	if j.EnableDAD {
		return rtnl.NewAddr(rtnl.Addr{Link: index, Prefix: ip.Address, Proto: addr.Proto})
	}
	return addr.New(index, ip.Address)
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

// settle waits until no address of the link is tentative any more (RFC 4862, section 5.4).
func settle(ctx context.Context, c *rtnl.Conn, index int) error {
	err := wait.Until(ctx, 10*time.Second, 50*time.Millisecond, func() (bool, error) {
		addrs, err := c.Addrs(index)
		if err != nil {
			return false, err
		}
		tentative := false
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return false, cni.Errorf(cni.ErrIO, "duplicate address detection: another station has %s", a.Prefix.Addr())
			}
			tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
		}
		return !tentative, nil
	})
	if err != nil && (ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("wait for duplicate address detection: %w", err)
	}
	return err
}
