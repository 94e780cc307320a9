//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// ErrConflict says that something of the node stands in the way of a wanted gateway.
var ErrConflict = errors.New("address conflict")

// Gateway is the address by which the pods of a subnet reach the node.
//
// In the subnet it stands with the subnet's length, so that the kernel makes the route to the pods. Outside of it, it is far:
// it stands with its full length, the route to the subnet is one of ours that has it as source, and requests for it by ARP
// that come in by other links are dropped, where the kernel has nftables for ARP.
type Gateway struct {
	Addr   netip.Addr
	Subnet netip.Prefix
}

// GatewayAt is the gateway of the subnet that its own address is in.
func GatewayAt(p netip.Prefix) Gateway { return Gateway{p.Addr(), p.Masked()} }

// check refuses what is no gateway of any subnet.
func (g Gateway) check() error {
	if !g.Addr.IsValid() || !g.Subnet.IsValid() || g.Addr.Is4() != g.Subnet.Addr().Is4() {
		return fmt.Errorf("gateway %s of subnet %s: want an address and a subnet of one family", g.Addr, g.Subnet)
	}
	return nil
}

func (g Gateway) far() bool { return !g.Subnet.Contains(g.Addr) }

// prefix is how it stands on the device: a far one with the length of the subnet that it is the gateway of, if there is one.
func (g Gateway) prefix(all []Gateway) netip.Prefix {
	for _, o := range append([]Gateway{g}, all...) {
		if o.Addr == g.Addr && !o.far() {
			return netip.PrefixFrom(g.Addr, o.Subnet.Bits())
		}
	}
	return single(g.Addr)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Gateways are those of a device, the bridge or a VLAN device of it.
type Gateways struct {
	NS    *netns.NS
	Index int
	Name  string
	// Configured are those that stay though no pod uses them now. A far one goes with the last pod that uses it all the same:
	// the node answers for it on every link.
	Configured []Gateway
	// Held tells whether an address of a subnet belongs to somebody of whom the bridge shows nothing. nil: to nobody.
	Held func(netip.Prefix) bool
	// Port is the index of a port that uses nothing of all this yet: that of the attachment under way. 0: there is none.
	Port int
	// Quick has Retire ask the kernel once where all addresses are configured ones. A route whose far gateway somebody else
	// took away is not found then.
	Quick bool
}

// Ensure gives the device the gateways. IPv6 addresses are usable at once. What this library put there for an earlier
// configuration is removed if no pod uses it. An address that stands there and is not wanted conflicts if it is IPv4 of
// another program, or overlaps: with force it is removed, else it is an error that names it and is [ErrConflict]. So is a
// gateway by which the node itself leaves for elsewhere, and a far one in a subnet of another link. It returns the addresses
// that it added, for [Gateways.Withdraw].
func (d Gateways) Ensure(ctx context.Context, force bool, want ...Gateway) (added []netip.Prefix, err error) {
	for _, w := range want {
		if err := w.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	c, err := rtnl.Open(d.NS)
	if err != nil {
		return nil, err
	}
	have, err := c.Addrs(d.Index)
	if err != nil {
		return nil, err
	}
	d.Configured = append(slices.Clip(want), d.Configured...)
	if former := d.former(have); len(former) > 0 {
		if err := d.retire(ctx, c, have, former); err != nil {
			return nil, err
		}
		if have, err = c.Addrs(d.Index); err != nil {
			return nil, err
		}
	}
	var changes []link.Change
	for _, h := range have {
		w, ok := d.conflict(h, want)
		switch {
		case !ok:
		case force || w.Addr() == h.Prefix.Addr() && h.Proto == link.Proto:
			changes = append(changes, rtnl.DelAddr(h))
		default:
			return nil, fmt.Errorf("%s has the address %s, which is in the way of %s: remove it, or set \"forceAddress\": true (%w)", d.Name, h.Prefix, w, ErrConflict)
		}
	}
	for _, w := range want {
		if p := w.prefix(d.Configured); !slices.Contains(added, p) && !stands(have, p) {
			if err := d.belongs(c, w); err != nil {
				return nil, err
			}
			changes, added = append(changes, addr.Add(d.Index, p)), append(added, p)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := rtnl.Except(link.Apply(ctx, d.NS, changes...), fs.ErrExist, fs.ErrNotExist); err != nil {
		return added, err
	}
	return added, errors.Join(d.routes(c, want), d.hideAll(ctx, want))
}

// Fit fails, with the errors of Ensure, if what the node reaches by other links is in the way of a gateway. It asks before the
// device is there.
func (d Gateways) Fit(_ context.Context, want ...Gateway) error {
	c, err := rtnl.Open(d.NS)
	if err != nil {
		return err
	}
	for _, w := range want {
		err := w.check()
		if err == nil {
			err = d.belongs(c, w)
		}
		if err != nil {
			return err
		}
		if !w.far() {
			continue
		}
		_, there, err := d.routed(c, w)
		if err == nil && there.Dst == w.Subnet {
			err = w.taken(c, there)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// taken says that the subnet of a far gateway is reached by another link.
func (g Gateway) taken(c *rtnl.Conn, there rtnl.Route) error {
	return fmt.Errorf("the subnet %s of gateway %s is reached by %s already: choose another subnet (%w)", g.Subnet, g.Addr, linkName(c, there.Link), ErrConflict)
}

// hideAll hides the far gateways from other links, save those that stand in a subnet of the device.
func (d Gateways) hideAll(ctx context.Context, want []Gateway) error {
	for _, g := range want {
		if g.Addr.Is4() && g.prefix(d.Configured) == single(g.Addr) && g.far() {
			if err := d.hide(ctx, g.Addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// stands reports whether the address is there; of a single address the length does not matter.
func stands(have []rtnl.Addr, p netip.Prefix) bool {
	return slices.ContainsFunc(have, func(h rtnl.Addr) bool {
		return h.Prefix == p || p.IsSingleIP() && h.Prefix.Addr() == p.Addr()
	})
}

// conflict returns the wanted address that h is in the way of.
func (d Gateways) conflict(h rtnl.Addr, want []Gateway) (netip.Prefix, bool) {
	if h.Prefix.Addr().IsLinkLocalUnicast() && h.Prefix.Addr().Is6() {
		return netip.Prefix{}, false
	}
	for _, g := range want {
		if w := g.prefix(d.Configured); w == h.Prefix || w.IsSingleIP() && w.Addr() == h.Prefix.Addr() {
			return netip.Prefix{}, false
		}
	}
	for _, g := range want {
		w := g.prefix(d.Configured)
		if w.Addr().Is4() != h.Prefix.Addr().Is4() {
			continue
		}
		apart := w.Addr() != h.Prefix.Addr() && (w.IsSingleIP() || h.Prefix.IsSingleIP()) // a far one of another subnet
		if w.Overlaps(h.Prefix) && !apart || w.Addr().Is4() && h.Proto != link.Proto {
			return w, true
		}
	}
	return netip.Prefix{}, false
}

// belongs fails if a gateway that is to be added would cut the node off from what it reaches by another link.
func (d Gateways) belongs(c *rtnl.Conn, g Gateway) error {
	if g.Addr.Is6() && g.Addr.IsLinkLocalUnicast() {
		return nil // each link has its own
	}
	family := uint8(unix.AF_INET6)
	if g.Addr.Is4() {
		family = unix.AF_INET
	}
	routes, err := c.Routes(rtnl.RouteFilter{Family: family})
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Via == g.Addr && r.Link != d.Index {
			return fmt.Errorf("gateway %s is the next hop of this node to %s over %s: give the pods a gateway, and a subnet, of their own (%w)", g.Addr, r.Dst, linkName(c, r.Link), ErrConflict)
		}
	}
	if !g.far() {
		return nil
	}
	all, err := c.Addrs(0)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Link != d.Index && a.Prefix.Contains(g.Addr) && !(a.Prefix.IsSingleIP() && a.Proto == link.Proto) {
			return fmt.Errorf("gateway %s is in %s, which %s of this node is connected to: choose one in %s, or one that is in no subnet of the node (%w)",
				g.Addr, a.Prefix.Masked(), linkName(c, a.Link), g.Subnet, ErrConflict)
		}
	}
	return nil
}

func linkName(c *rtnl.Conn, index int) string {
	l, err := c.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("link %d", index)
	}
	return l.Name
}

// wire is the route to the subnet of a far gateway.
func (d Gateways) wire(g Gateway) rtnl.Route {
	r := rtnl.Route{Dst: g.Subnet, Src: g.Addr, Link: d.Index, Proto: link.Proto, Type: unix.RTN_UNICAST}
	if g.Addr.Is4() {
		r.Scope = unix.RT_SCOPE_LINK
	}
	return r
}

// routed reports whether packets to the subnet of a far gateway go out by the device, with it as source.
func (d Gateways) routed(c *rtnl.Conn, g Gateway) (ok bool, there rtnl.Route, err error) {
	err = c.Do(rtnl.MatchRoute(g.Subnet.Addr(), func(r rtnl.Route) { there = r }))
	ok = there.Dst == g.Subnet && there.Link == d.Index && there.Src == g.Addr
	return ok, there, rtnl.Except(err, fs.ErrNotExist, unix.ENETUNREACH, unix.EHOSTUNREACH)
}

// routes sets those of far gateways.
func (d Gateways) routes(c *rtnl.Conn, want []Gateway) error {
	for _, g := range want {
		if !g.far() {
			continue
		}
		ok, there, err := d.routed(c, g)
		if ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		err = c.Do(rtnl.NewRoute(d.wire(g)))
		if !errors.Is(err, fs.ErrExist) {
			if err != nil {
				return err
			}
			continue
		}
		if there.Dst == g.Subnet && there.Link != d.Index || there.Proto != link.Proto && there.Src != g.Addr {
			return g.taken(c, there)
		}
		if err := c.Do(rtnl.ReplaceRoute(d.wire(g))); err != nil {
			return err
		}
	}
	return nil
}

// PinMAC makes the present MAC of a bridge its own; else it would take that of its lowest port, and change as ports come
// and go.
func PinMAC(_ context.Context, ns *netns.NS, b State) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	return c.Do(rtnl.SetLink(rtnl.Set{Index: b.Index, MAC: b.MAC}))
}

// Check fails if a gateway is missing on the device, or the route to the subnet of a far one is.
func (d Gateways) Check(_ context.Context, want ...Gateway) error {
	c, err := rtnl.Open(d.NS)
	if err != nil {
		return err
	}
	have, err := c.Addrs(d.Index)
	if err != nil {
		return err
	}
	all := append(slices.Clip(want), d.Configured...)
	for _, w := range want {
		p := w.prefix(all)
		if !stands(have, p) {
			return fmt.Errorf("%s does not have the gateway address %s", d.Name, p)
		}
		if slices.ContainsFunc(have, func(h rtnl.Addr) bool { return h.Prefix.Addr() == p.Addr() && h.Flags&unix.IFA_F_DADFAILED != 0 }) {
			return fmt.Errorf("%s: duplicate address detection failed for the gateway address %s", d.Name, p)
		}
		if !w.far() {
			continue
		}
		ok, _, err := d.routed(c, w)
		if err == nil && !ok {
			err = fmt.Errorf("the route to %s on %s with source %s is missing", w.Subnet, d.Name, w.Addr)
		}
		if err == nil && w.Addr.Is4() && p.IsSingleIP() {
			if ok, err = d.hidden(w.Addr); err == nil && !ok {
				err = fmt.Errorf("the node answers ARP requests for the gateway %s on other links than %s: the rules of table arp %s are missing", w.Addr, d.Name, mark.Word)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
