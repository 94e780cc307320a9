//go:build linux

package route

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Add is the change that adds a route over a link, given by its index, for [link.Apply]; the field Link of the route does not
// count. It bears no protocol of ours: what stands inside a pod goes with the pod. A route of the same destination, metric
// and table that leads elsewhere stays: over IPv4 ours stands before it, over IPv6 beside it. The very same route is
// [io/fs.ErrExist].
func Add(index int, r Route) link.Change {
	if err := r.check(); err != nil {
		return link.Malformed(err)
	}
	return rtnl.AppendRoute(overLink(index, r))
}

func overLink(index int, r Route) rtnl.Route {
	const boot = 3 // RTPROT_BOOT, as ip-route(8) writes it
	w := rtnl.Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Link: index, Table: r.Table, Metric: r.Metric, MTU: r.MTU,
		AdvMSS: r.AdvMSS, Proto: boot, Scope: r.Scope, OnLink: r.OnLink}
	if w.Scope == 0 && r.Dst.Addr().Is4() && !r.Via.IsValid() {
		w.Scope = unix.RT_SCOPE_LINK // as ip-route(8) has it for a destination without next hop
	}
	return w
}

// CheckLink fails if a route is in no table of ns, or in one with another next hop or device than asked for, and names all
// such routes. The table, the metric and the metrics of a route may be what another program made of them.
func CheckLink(ctx context.Context, ns *netns.NS, name string, routes ...Route) error {
	return CheckLinks(ctx, ns, []string{name}, routes...)
}

// CheckLinks is [CheckLink] for routes each of which may be over any of the links, as those of a container with several
// interfaces are. If none of the links is there it is [io/fs.ErrNotExist].
func CheckLinks(_ context.Context, ns *netns.NS, links []string, routes ...Route) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	var over []int
	for _, name := range links {
		l, e := c.LinkByName(name)
		if e == nil {
			over = append(over, l.Index)
		}
		err = errors.Join(err, e)
	}
	if err != nil && len(over) == 0 {
		return err
	}
	have, err := c.Routes(rtnl.RouteFilter{})
	if err != nil {
		return err
	}
	var missing []error
	for _, r := range routes {
		ok := slices.ContainsFunc(have, func(h rtnl.Route) bool {
			return h.Dst == r.Dst && (h.Multiple || slices.Contains(over, h.Link) && (h.Via == r.Via || !r.Via.IsValid()))
		})
		if !ok {
			missing = append(missing, sentinel.Errorf(fs.ErrNotExist, "the route to %s%s on %s is missing", r.Dst, via(r.Via), strings.Join(links, " or ")))
		}
	}
	return errors.Join(missing...)
}

func via(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return " via " + a.String()
}

// DefaultLink is the index of the link that leads to all that no other route does: that of the default route in the main table,
// of IPv4 rather than of IPv6, of the least metric. None is [io/fs.ErrNotExist].
func DefaultLink(ctx context.Context, ns *netns.NS) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return 0, err
	}
	for _, f := range inet.Families {
		family := uint8(unix.AF_INET)
		if f == inet.IPv6 {
			family = unix.AF_INET6
		}
		all, err := c.Routes(rtnl.RouteFilter{Family: family, Table: unix.RT_TABLE_MAIN})
		if err != nil {
			return 0, err
		}
		var best rtnl.Route
		for _, r := range all {
			if r.Dst == f.Default() && r.Link != 0 && (best.Link == 0 || r.Metric < best.Metric) {
				best = r
			}
		}
		if best.Link != 0 {
			return best.Link, nil
		}
	}
	return 0, sentinel.Errorf(fs.ErrNotExist, "there is no default route")
}
