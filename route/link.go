//go:build linux

package route

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// New is the message that adds a route over a link by its index, for callers that batch. It bears no protocol of ours: what
// stands inside a pod goes with the pod.
func New(link int, r Route) *rtnl.Msg {
	const boot = 3 // RTPROT_BOOT, as ip-route(8) writes it
	w := rtnl.Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Link: link, Table: r.Table, Metric: r.Metric, MTU: r.MTU,
		AdvMSS: r.AdvMSS, Proto: boot, Scope: r.Scope, OnLink: r.OnLink}
	if r.Dst.Addr().Is6() || r.Via.IsValid() {
		return rtnl.AppendRoute(w)
	}
	if w.Scope == 0 {
		const link = 253 // RT_SCOPE_LINK: the kernel wants it for a destination without next hop
		w.Scope = link
	}
	return rtnl.AppendRoute(w)
}

// CheckLink fails if a route is in no table of ns, or in one with another next hop or device than asked for. The table,
// the metric and the metrics of a route may be what another program made of them.
func CheckLink(ns *netns.NS, link string, routes ...Route) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(link)
	if err != nil {
		return err
	}
	have, err := c.Routes(rtnl.RouteFilter{})
	if err != nil {
		return err
	}
	for _, r := range routes {
		ok := slices.ContainsFunc(have, func(h rtnl.Route) bool {
			return h.Dst == r.Dst && (h.Multiple || h.Link == l.Index && (h.Via == r.Via || !r.Via.IsValid()))
		})
		if !ok {
			return fmt.Errorf("the route to %s%s on %s: %w", r.Dst, via(r.Via), link, notThere(rtnl.Route{Dst: r.Dst}))
		}
	}
	return nil
}

func via(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return " via " + a.String()
}
