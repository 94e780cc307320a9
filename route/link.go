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

	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/internal/sentinel"
	"github.com/cniblocks/cniblocks/netns"
)

// New is the message that adds a route over a link by its index, for callers that batch. It bears no protocol of ours: what
// stands inside a pod goes with the pod.
func New(link int, r Route) *rtnl.Msg { return rtnl.AppendRoute(overLink(link, r)) }

func overLink(link int, r Route) rtnl.Route {
	const boot = 3 // RTPROT_BOOT, as ip-route(8) writes it
	w := rtnl.Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Link: link, Table: r.Table, Metric: r.Metric, MTU: r.MTU,
		AdvMSS: r.AdvMSS, Proto: boot, Scope: r.Scope, OnLink: r.OnLink}
	if w.Scope == 0 && r.Dst.Addr().Is4() && !r.Via.IsValid() {
		w.Scope = unix.RT_SCOPE_LINK // as ip-route(8) has it for a destination without next hop
	}
	return w
}

// EnsureLink adds the routes over a link that do not stand there; the field Link of a route does not count. They bear no
// protocol of ours and go with the link. A route of the same destination, metric and table that leads elsewhere stays and
// is [io/fs.ErrExist]; a link that is not there is [io/fs.ErrNotExist].
func EnsureLink(ctx context.Context, ns *netns.NS, link string, routes ...Route) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(link)
	if err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	for _, r := range routes {
		if err := r.check(); err != nil {
			return err
		}
		msgs = append(msgs, rtnl.NewRoute(overLink(l.Index, r)))
	}
	if err := ctx.Err(); err != nil || len(msgs) == 0 {
		return err
	}
	err = c.Do(msgs...)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if other := CheckLink(ctx, ns, link, routes...); other != nil {
		return errors.Join(other, err)
	}
	return rtnl.Except(err, fs.ErrExist)
}

// CheckLink fails if a route is in no table of ns, or in one with another next hop or device than asked for, and names all
// such routes. The table, the metric and the metrics of a route may be what another program made of them.
func CheckLink(ctx context.Context, ns *netns.NS, link string, routes ...Route) error {
	return CheckLinks(ctx, ns, []string{link}, routes...)
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
