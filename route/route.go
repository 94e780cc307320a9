//go:build linux

// Package route keeps the routes of a namespace as they should be, and lets it forward packets.
//
// A [Table] holds what bears one protocol number in one routing table: its routes are ours to add, change and remove; all
// others are never touched.
package route

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Route is a route; comparable. Zero fields other than Dst are the kernel's choice.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // next hop; an IPv4 Dst may have an IPv6 one (RFC 8950)
	Src    netip.Addr // preferred source address
	Link   string     // name of the device; may be empty where Via tells
	Metric uint32
	MTU    uint32 // bytes, at most 65520
	AdvMSS uint32 // bytes, at most 65495
	Table  uint32 // 0 is main; in a [Table] it is the table's
	Scope  uint8  // RT_SCOPE_*; 0 is global
	OnLink bool   // Via need not be on a connected network
}

// check refuses what the kernel would take in another meaning, or refuse without a word.
func (r Route) check() error {
	const mtu, mss = 65535 - 15, 65535 - 40 // the kernel makes these of larger ones
	switch {
	case !r.Dst.IsValid():
		return errors.New("route: the destination is no network; want one such as 192.0.2.0/24")
	case r.Dst != r.Dst.Masked():
		return fmt.Errorf("route to %s: the destination is no network; want %s", r.Dst, r.Dst.Masked())
	case r.Src.IsValid() && r.Src.Is4() != r.Dst.Addr().Is4():
		return fmt.Errorf("route to %s: the source address %s is of the other family", r.Dst, r.Src)
	case r.Via.IsValid() && r.Via.Is4() && !r.Dst.Addr().Is4():
		return fmt.Errorf("route to %s: the next hop %s is IPv4; want an IPv6 one", r.Dst, r.Via)
	case r.MTU > mtu:
		return fmt.Errorf("route to %s: MTU %d: want at most %d bytes, or 0 for that of the link", r.Dst, r.MTU, mtu)
	case r.AdvMSS > mss:
		return fmt.Errorf("route to %s: AdvMSS %d: want at most %d bytes, or 0 for the kernel's choice", r.Dst, r.AdvMSS, mss)
	}
	return nil
}

// Table is the set of routes in NS that bear Proto.
type Table struct {
	NS    *netns.NS
	ID    uint32 // 0 is main
	Proto uint8  // 0 is [link.Proto]
}

func (t Table) id() uint32 {
	if t.ID == 0 {
		return unix.RT_TABLE_MAIN
	}
	return t.ID
}

func (t Table) proto() uint8 {
	if t.Proto == 0 {
		return link.Proto
	}
	return t.Proto
}

// Reconcile makes the table hold the wanted routes and none else of our protocol, in one batch, additions before removals.
// A wanted route that a foreign one stands in the way of is an error that names both; the other routes are set all the
// same. When nothing differs nothing is written. A nil want is an error.
func (t Table) Reconcile(ctx context.Context, want iter.Seq[Route]) error {
	c, diff, conflict, err := t.diff(want)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(conflict, diff.Apply(c, nil))
}

// Check reports how the table differs from the wanted routes; nil if it does not.
func (t Table) Check(_ context.Context, want iter.Seq[Route]) error {
	_, diff, conflict, err := t.diff(want)
	if err != nil {
		return err
	}
	return errors.Join(append(diff.Words(nil), conflict)...)
}

func (t Table) diff(want iter.Seq[Route]) (c *rtnl.Conn, diff reconcile.Changes, conflict, err error) {
	if want == nil {
		return nil, diff, nil, errors.New("it is not said which routes the table is to hold; want a sequence, which may be empty")
	}
	if c, err = rtnl.Open(t.NS); err != nil {
		return nil, diff, nil, err
	}
	index := linkIndex(c)
	have, err := c.Routes(rtnl.RouteFilter{Table: t.id()})
	if err != nil {
		return nil, diff, nil, err
	}
	wanted := reconcile.NewTable(0, reconcile.KeyOfRoute, reconcile.HashRoute)
	for r := range want {
		w, err := t.wire(r, index)
		if err == nil && wanted.Has(reconcile.KeyOfRoute(&w)) {
			err = fmt.Errorf("%s is wanted twice", w)
		}
		if err != nil {
			return nil, diff, nil, err
		}
		wanted.Put(&w)
	}
	diff.InOrder = true
	diff.Set.Routes, diff.Del.Routes = wanted.Compare(reconcile.Judge[rtnl.Route]{
		Ours:     func(h *rtnl.Route) bool { return h.Proto == t.proto() },
		Same:     same,
		Replaces: func(_, _ *rtnl.Route) bool { return true },
		Conflict: func(h, w *rtnl.Route) {
			conflict = errors.Join(conflict, fmt.Errorf("%s: a foreign %s (protocol %d) stands in the way; remove it or give ours another metric", w, h, h.Proto))
		},
	}, have)
	return c, diff, conflict, nil
}

// List yields the routes of the table that bear our protocol.
func (t Table) List(_ context.Context) ([]Route, error) {
	c, err := rtnl.Open(t.NS)
	if err != nil {
		return nil, err
	}
	links, err := c.Links("")
	if err != nil {
		return nil, err
	}
	name := map[int]string{}
	for _, l := range links {
		name[l.Index] = l.Name
	}
	have, err := c.Routes(rtnl.RouteFilter{Table: t.id(), Proto: t.proto()})
	if err != nil {
		return nil, err
	}
	routes := make([]Route, 0, len(have))
	for _, r := range have {
		routes = append(routes, Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Link: name[r.Link], Metric: r.Metric,
			MTU: r.MTU, AdvMSS: r.AdvMSS, Table: r.Table, Scope: r.Scope, OnLink: r.OnLink})
	}
	return routes, nil
}

// linkIndex looks names up once each.
func linkIndex(c *rtnl.Conn) func(string) (int, error) {
	known := map[string]int{"": 0}
	return func(name string) (int, error) {
		if i, ok := known[name]; ok {
			return i, nil
		}
		l, err := c.LinkByName(name)
		if err == nil {
			known[name] = l.Index
		}
		return l.Index, err
	}
}

func (t Table) wire(r Route, index func(string) (int, error)) (rtnl.Route, error) {
	if err := r.check(); err != nil {
		return rtnl.Route{}, err
	}
	over, err := index(r.Link)
	if err != nil {
		return rtnl.Route{}, fmt.Errorf("route to %s: %w", r.Dst, err)
	}
	w := rtnl.Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Link: over, Table: t.id(), Metric: r.Metric, MTU: r.MTU,
		AdvMSS: r.AdvMSS, Proto: t.proto(), Scope: r.Scope, OnLink: r.OnLink, Type: unix.RTN_UNICAST}
	if w.Metric == 0 && r.Dst.Addr().Is6() {
		w.Metric = 1024 // what the kernel makes of 0 (IP6_RT_PRIO_USER)
	}
	return w, nil
}

// same compares what was asked for; where nothing was, the kernel's choice is right.
func same(have, want *rtnl.Route) bool {
	h := *have
	if want.Link == 0 {
		h.Link = 0
	}
	if !want.Src.IsValid() {
		h.Src = netip.Addr{}
	}
	if want.Scope == 0 && (!h.Via.IsValid() || want.Dst.Addr().Is6()) {
		h.Scope = 0
	}
	return h == *want
}

// ErrNotForwarding says that the namespace does not forward packets of a family.
var ErrNotForwarding = errors.New("forwarding is off")
