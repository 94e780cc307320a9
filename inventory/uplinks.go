//go:build linux

package inventory

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// readUplinks finds the devices by which packets leave the node: those with a default route, those from which tunnels and
// routes of ours send, hardware and what stands on it. If none of these is there, it is the pairs with an address that is
// no pod's: nodes that are namespaces have them.
func (r *reader) readUplinks(routes []rtnl.Route) {
	up := map[int]*Uplink{}
	put := func(l rtnl.Link) *Uplink {
		if up[l.Index] == nil && l.Name != "" {
			up[l.Index] = &Uplink{Name: l.Name, Addrs: []netip.Prefix{}, Via: []netip.Addr{}}
			for _, a := range r.addrsOf(l.Index) {
				up[l.Index].Addrs = append(up[l.Index].Addrs, a.Prefix)
			}
		}
		return up[l.Index]
	}
	for _, w := range routes {
		l := r.link(w.Link)
		plain := w.Type == 0 || w.Type == unicast
		switch {
		case l.Name == "" || !plain:
		case w.Proto == link.Proto:
			if w.Via.IsValid() && l.Tunnel() == nil && !r.isOurs(l) {
				put(l)
			}
		case w.Dst.Bits() == 0 && w.Table == mainTable:
			u := put(l)
			u.Default = true
			if w.Via.IsValid() && !slices.Contains(u.Via, w.Via) {
				u.Via = append(u.Via, w.Via)
			}
		}
	}
	for _, l := range r.links {
		tunnels := slices.ContainsFunc(r.n.Devices, func(d Device) bool { return d.Owner == Ours && slices.Contains(d.Over, l.Name) })
		if tunnels || r.bearsNode(l) || l.Up() && l.Master == 0 && slices.Contains(lower, l.Kind) && r.outward(l) {
			put(l)
		}
	}
	none := len(up) == 0
	for _, a := range r.n.Attachments {
		if l := r.link(a.Index); none && a.Owner == Foreign && a.Bridge == "" && l.Up() && r.outward(l) {
			put(l)
		}
	}
	for _, u := range up {
		r.n.Uplinks = append(r.n.Uplinks, *u)
	}
}

// lower are the kinds of devices that are hardware, or stand on it.
var lower = []string{"", "bond", "team", "vlan", "macvlan", "ipvlan"}

// outward reports whether a link has an address of a network with more than this node in it.
func (r *reader) outward(l rtnl.Link) bool {
	return l.Flags&unix.IFF_LOOPBACK == 0 && slices.ContainsFunc(r.addrsOf(l.Index), func(a Addr) bool { return !a.Prefix.IsSingleIP() && a.Owner != Ours })
}

// bearsNode reports whether a link has an address that other nodes of a network send to.
func (r *reader) bearsNode(l rtnl.Link) bool {
	return l.Flags&unix.IFF_LOOPBACK == 0 && slices.ContainsFunc(r.addrsOf(l.Index), func(a Addr) bool { return slices.Contains(r.endpoints, a.Prefix.Addr()) })
}

func (r *reader) isOurs(l rtnl.Link) bool {
	return slices.ContainsFunc(r.n.Devices, func(d Device) bool { return d.Index == l.Index && d.Owner == Ours }) ||
		slices.ContainsFunc(r.n.Bridges, func(b Bridge) bool { return b.Index == l.Index && b.Owner == Ours })
}
