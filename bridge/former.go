//go:build linux

package bridge

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// Retire removes what this library put on the device for gateways that are neither configured nor used by a pod on the
// bridge, a far gateway that is configured and not used included. A pod that has no address yet, and one whose addresses
// cannot be read, counts as a user of all of them. An address without the mark of this library is not looked at.
func (d Gateways) Retire(ctx context.Context) error {
	c, err := rtnl.Open(d.NS)
	if err != nil {
		return err
	}
	have, err := c.Addrs(d.Index)
	if err != nil {
		return err
	}
	all := len(d.Configured)
	d.Configured = slices.DeleteFunc(slices.Clone(d.Configured), Gateway.far)
	former := d.former(have)
	if d.Quick && len(former) == 0 && len(d.Configured) == all {
		return nil
	}
	err = d.retire(ctx, c, have, former)
	if !d.Quick {
		err = errors.Join(err, SweepARP(ctx, d.NS))
	}
	return err
}

// Withdraw takes addresses that [Gateways.Ensure] added back, unless a pod uses them by now.
func (d Gateways) Withdraw(ctx context.Context, added ...netip.Prefix) error {
	c, err := rtnl.Open(d.NS)
	if err != nil {
		return err
	}
	have, err := c.Addrs(d.Index)
	if err != nil {
		return err
	}
	theirs := slices.DeleteFunc(slices.Clone(have), func(h rtnl.Addr) bool { return h.Proto != link.Proto || !slices.Contains(added, h.Prefix) })
	if len(theirs) == 0 {
		return nil
	}
	d.Configured, d.Held = nil, nil
	return d.retire(ctx, c, have, theirs)
}

// former are the addresses of ours that no configured gateway has.
func (d Gateways) former(have []rtnl.Addr) (former []rtnl.Addr) {
	for _, h := range have {
		configured := func(g Gateway) bool {
			return g.prefix(d.Configured) == h.Prefix || g.far() && g.Addr == h.Prefix.Addr()
		}
		if h.Proto == link.Proto && !slices.ContainsFunc(d.Configured, configured) {
			former = append(former, h)
		}
	}
	return former
}

// retire removes those of the former addresses that serve no pod, with their routes. It looks a second time after that: an
// attachment that began meanwhile took what it saw for good, and gets it back.
func (d Gateways) retire(ctx context.Context, c *rtnl.Conn, have, former []rtnl.Addr) error {
	routes, err := c.Routes(rtnl.RouteFilter{Proto: link.Proto, Link: d.Index})
	if err != nil {
		return err
	}
	routes = slices.DeleteFunc(routes, func(r rtnl.Route) bool {
		return r.Via.IsValid() || slices.ContainsFunc(d.Configured, func(g Gateway) bool { return g.far() && g.Subnet == r.Dst })
	})
	served, err := d.users(c, former, routes)
	if err != nil {
		return err
	}
	former = slices.DeleteFunc(slices.Clone(former), func(h rtnl.Addr) bool { return d.serves(h, routes, served) })
	routes = slices.DeleteFunc(routes, func(r rtnl.Route) bool { return served(r.Dst) })
	var remove []*rtnl.Msg
	var restore []link.Change
	for _, r := range routes {
		remove = append(remove, rtnl.DelRoute(r))
	}
	for _, h := range former {
		remove = append(remove, rtnl.DelAddr(h))
	}
	for _, h := range have { // the kernel removes with a first address of a subnet the others of it
		if !slices.Contains(former, h) && slices.ContainsFunc(former, func(f rtnl.Addr) bool { return f.Prefix.Masked() == h.Prefix.Masked() }) {
			remove = append(remove, rtnl.NewAddr(h))
		}
	}
	if err := ctx.Err(); err != nil || len(remove) == 0 {
		return err
	}
	if err := rtnl.Except(c.Do(remove...), fs.ErrNotExist, fs.ErrExist, unix.ESRCH); err != nil {
		return err
	}
	if served, err = d.users(c, former, routes); err != nil {
		return err
	}
	for _, h := range former {
		if d.serves(h, routes, served) {
			restore = append(restore, addr.Add(d.Index, h.Prefix))
		}
	}
	for _, r := range routes {
		if served(r.Dst) {
			restore = append(restore, rtnl.NewRoute(r))
		}
	}
	if len(restore) > 0 {
		return rtnl.Except(link.Apply(ctx, d.NS, restore...), fs.ErrExist)
	}
	if slices.ContainsFunc(former, func(h rtnl.Addr) bool { return h.Prefix.IsSingleIP() && h.Prefix.Addr().Is4() }) {
		return SweepARP(ctx, d.NS)
	}
	return nil
}

// serves reports whether somebody uses an address of the device: of its subnet, or of one that it is the source to.
func (d Gateways) serves(h rtnl.Addr, routes []rtnl.Route, served func(netip.Prefix) bool) bool {
	if !h.Prefix.IsSingleIP() && served(h.Prefix.Masked()) {
		return true
	}
	return slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Src == h.Prefix.Addr() && served(r.Dst) }) ||
		slices.ContainsFunc(d.Configured, func(g Gateway) bool { return g.Addr == h.Prefix.Addr() })
}

// users looks who uses the subnets, and returns what it found.
func (d Gateways) users(c *rtnl.Conn, former []rtnl.Addr, routes []rtnl.Route) (served func(netip.Prefix) bool, err error) {
	var open []netip.Prefix // no user found yet
	for _, h := range former {
		if !h.Prefix.IsSingleIP() {
			open = append(open, h.Prefix.Masked())
		}
	}
	for _, r := range routes {
		open = append(open, r.Dst)
	}
	if d.Held != nil {
		open = slices.DeleteFunc(open, d.Held)
	}
	var pods []rtnl.Link
	if len(open) > 0 {
		if pods, err = d.pods(c); err != nil {
			return nil, err
		}
	}
	for _, p := range pods {
		if len(open) == 0 {
			break
		}
		addrs, err := c.AddrsIn(p.PeerNS)
		addrs = slices.DeleteFunc(addrs, func(a rtnl.Addr) bool {
			ip := a.Prefix.Addr()
			return ip.IsLoopback() || ip.Is6() && ip.IsLinkLocalUnicast()
		})
		if err != nil || len(addrs) == 0 {
			open = nil
		}
		open = slices.DeleteFunc(open, func(s netip.Prefix) bool {
			return slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return s.Contains(a.Prefix.Addr()) })
		})
	}
	return func(s netip.Prefix) bool { return !slices.Contains(open, s) }, nil
}

// pods are the ports of the bridge that lead to other namespaces.
func (d Gateways) pods(c *rtnl.Conn) ([]rtnl.Link, error) {
	links, err := c.Links("")
	if err != nil {
		return nil, err
	}
	at := func(index int) rtnl.Link {
		if i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Index == index }); i >= 0 {
			return links[i]
		}
		return rtnl.Link{}
	}
	bridge := d.Index
	if l := at(d.Index); l.Kind != "bridge" { // a VLAN device: the port behind it is on the bridge
		bridge = at(l.Peer).Master
	}
	return slices.DeleteFunc(links, func(l rtnl.Link) bool { return l.Master != bridge || l.PeerNS == 0 || l.Index == d.Port }), nil
}
