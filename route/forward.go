//go:build linux

package route

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

func forwarding(f inet.Family) string {
	if f == inet.IPv4 {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}

// Forward lets ns forward packets of the families. It writes under a lock and only what is off: several writers at once
// can leave forwarding off on single devices for good. A link whose default route comes from router advertisements keeps
// it: the kernel would drop it unless accept_ra is 2 (ip-sysctl, accept_ra).
func Forward(ctx context.Context, ns *netns.NS, families ...inet.Family) error {
	if CheckForward(ctx, ns, families...) == nil {
		return nil
	}
	unlock, err := ns.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, f := range families {
		if CheckForward(ctx, ns, f) == nil {
			continue
		}
		if f == inet.IPv6 {
			if err := keepAdvertised(ns); err != nil {
				return err
			}
		}
		if err := sysctl.Ensure(ns, sysctl.Var{Key: forwarding(f), Value: "1"}); err != nil {
			return fmt.Errorf("switch on %s forwarding: %w", f.Title(), err)
		}
	}
	return nil
}

// CheckForward fails with [ErrNotForwarding] if ns does not forward packets of one of the families.
func CheckForward(_ context.Context, ns *netns.NS, families ...inet.Family) error {
	for _, f := range families {
		v, err := sysctl.Get(ns, forwarding(f))
		if err != nil {
			return err
		}
		if v == "0" {
			return fmt.Errorf("%s: %w: sysctl %s is 0", f.Title(), ErrNotForwarding, forwarding(f))
		}
	}
	return nil
}

func keepAdvertised(ns *netns.NS) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	routes, err := c.Routes(rtnl.RouteFilter{Family: unix.AF_INET6, Proto: unix.RTPROT_RA})
	if err != nil {
		return err
	}
	links, err := c.Links("")
	if err != nil {
		return err
	}
	for _, l := range links {
		advertised := slices.ContainsFunc(routes, func(r rtnl.Route) bool {
			return r.Dst.Bits() == 0 && (r.Link == l.Index || r.Multiple)
		})
		if !advertised {
			continue
		}
		key := "net/ipv6/conf/" + l.Name + "/accept_ra"
		if v, err := sysctl.Get(ns, key); err != nil || v != "1" {
			continue
		}
		if err := sysctl.Ensure(ns, sysctl.Var{Key: key, Value: "2"}); err != nil {
			return fmt.Errorf("keep the advertised default route of %s: %w", l.Name, err)
		}
	}
	return nil
}
