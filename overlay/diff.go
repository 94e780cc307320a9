//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

const (
	unicast      = unix.RTN_UNICAST
	errNoBuffers = unix.ENOBUFS
	errInUse     = unix.EADDRINUSE
)

// gone takes "it is not there" out of the result of removals.
func gone(err error) error { return rtnl.Except(err, fs.ErrNotExist) }

// ensure makes the devices.
func (n *Node) ensure(ctx context.Context) ([]rtnl.Link, error) {
	if err := n.open(); err != nil {
		return nil, err
	}
	want, err := n.wantedDevices()
	if err != nil {
		return nil, err
	}
	links, err := n.ensureDevices(ctx, want)
	if err != nil {
		return nil, err
	}
	n.settle(want, links)
	return links, nil
}

func (n *Node) wantedDevices() ([]device, error) {
	if err := n.ownEnds(); err != nil {
		return nil, err
	}
	want, err := n.d.devices(n)
	if err != nil {
		return nil, err
	}
	if !n.forEach() {
		return want, nil
	}
	if err := n.disputedDevices(); err != nil {
		return nil, err
	}
	for i, p := range n.list {
		if n.disputes[i] == nil {
			want = append(want, n.d.peerDevices(n, p)...)
		}
	}
	return want, nil
}

// checkDevices is ensure without a write.
func (n *Node) checkDevices() ([]rtnl.Link, error) {
	want, err := n.wantedDevices()
	if err != nil {
		return nil, err
	}
	links, err := n.conn.Links("")
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, d := range want {
		i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == d.name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("device %s is missing", d.name))
			continue
		}
		if err := n.mayUse(links[i], d); err != nil {
			errs = append(errs, err)
			continue
		}
		if t := links[i].Tunnel(); t != d.tunnel {
			errs = append(errs, fmt.Errorf("device %s has other parameters than are wanted: %s", d.name, otherParameters(t, d.tunnel)))
			continue
		}
		if s, differs := n.mend(links[i], d, links); differs {
			errs = append(errs, fmt.Errorf("device %s is not as it should be (%s)", d.name, wrong(s)))
		}
	}
	n.settle(want, links)
	return links, errors.Join(errs...)
}

func wrong(s rtnl.Set) string {
	switch {
	case s.Up:
		return "it is down"
	case s.MAC != (inet.MAC{}):
		return "its MAC should be " + s.MAC.String()
	case s.Alias != "":
		return "its alias should be " + s.Alias
	}
	return "its place on the bridge"
}

// settle remembers which devices stand, and which of this network are left over from another configuration or from peers
// that left. Only names of our own making count as left over: who states a name rules over it. Without a list nothing
// does, since there may be devices for single peers.
func (n *Node) settle(want []device, links []rtnl.Link) {
	before := n.links
	defer func() {
		if !maps.Equal(before, n.links) {
			n.under = nil // the plans name links by index
		}
	}()
	n.devices = want
	n.links, n.stale, n.others = make(map[string]int, len(want)), map[int]struct{}{}, map[int]struct{}{}
	for _, l := range links {
		if slices.ContainsFunc(want, func(d device) bool { return d.name == l.Name }) {
			n.links[l.Name] = l.Index
			continue
		}
		who := marked(l)
		switch {
		case len(who) == 0:
		case n.list != nil && n.o.Device == "" && n.d.layer() == 1 && len(who) == 1 && n.isMine(who[0]) && strings.HasPrefix(l.Name, "cb-"):
			n.stale[l.Index] = struct{}{}
		default:
			n.others[l.Index] = struct{}{}
		}
	}
}

// ownLink reports whether a link is this network's alone or one that it shares, and which of both.
func (n *Node) ownLink(index int) (own, shared bool) {
	if _, ok := n.stale[index]; ok {
		return true, false
	}
	for _, d := range n.devices {
		if n.links[d.name] == index {
			return true, d.shared
		}
	}
	return false, false
}

// wantedAddrs are those of the devices, by link and prefix.
func (n *Node) wantedAddrs() map[rtnl.Addr]bool {
	want := map[rtnl.Addr]bool{}
	for _, d := range n.devices {
		index, ok := n.links[d.name]
		if !ok || d.bare {
			continue
		}
		for _, a := range n.o.Node.NodeAddrs() {
			if f := inet.FamilyOf(a); n.o.carries(f) && (d.inner == 0 || d.inner == f) {
				want[rtnl.Addr{Link: index, Prefix: netip.PrefixFrom(a, a.BitLen())}] = true
			}
		}
	}
	return want
}

// addrs compares the addresses of the devices.
func (n *Node) addrs(have []rtnl.Addr) (set, remove []rtnl.Addr) {
	want := n.wantedAddrs()
	for _, h := range have {
		k := rtnl.Addr{Link: h.Link, Prefix: h.Prefix}
		if want[k] {
			delete(want, k)
			continue
		}
		own, shared := n.ownLink(h.Link)
		if own && h.Proto == Proto && (!shared || len(n.o.Prefixes) > 0 && n.o.holds(h.Prefix)) {
			remove = append(remove, h)
		}
	}
	for a := range want {
		a.Proto = Proto
		if a.Prefix.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		set = append(set, a)
	}
	return set, remove
}

// diff reads the kernel and compares.
func (n *Node) diff(ctx context.Context, links []rtnl.Link) (c changes, refused []error, err error) {
	k, err := n.read(ctx)
	if err != nil {
		return c, nil, err
	}
	ours, foreign := n.sort(k.routes)
	under, err := n.underlay(links, foreign, k.addrs)
	if err != nil {
		return c, nil, err
	}
	if !under.sameAs(n.under) {
		n.under = under
		n.planAll(ours, k)
	}
	refused = slices.Clone(n.skipped)
	if c.mtu, err = n.mtus(links); err != nil {
		return c, nil, err
	}
	c.setAddr, c.delAddr = n.addrs(k.addrs)
	c.tunnelDevice = k.tunnelWrong
	for _, l := range links {
		if _, ok := n.stale[l.Index]; ok {
			c.delLink = append(c.delLink, l)
		}
	}
	if n.list == nil {
		return c, nil, nil
	}
	name := names(links)
	conflict := func(what fmt.Stringer, owner string, there string) {
		text := fmt.Sprintf("%s cannot be set: a foreign %s stands in the way; remove it", what, there)
		refused = append(refused, &Refused{owner, errors.New(rtnl.WithNames(text, name))})
	}
	c.setRoute, c.delRoute = n.want.routes.compare(judge[netip.Prefix, rtnl.Route]{
		ours:     n.owns,
		same:     sameRoute,
		replaces: func(h, w *rtnl.Route) bool { return h.Metric == w.Metric },
		conflict: func(h, w *rtnl.Route) {
			if gw := gatewayOf(h, k.addrs); gw.IsValid() {
				refused = append(refused, &Refused{n.ownerOf(w.Dst), fmt.Errorf("the route to %s cannot be set: %s still has the gateway %s, of a range that was this node's: it goes with the last pod here that has an address of %s",
					w.Dst, name(h.Link), gw, w.Dst)})
				return
			}
			conflict(w, n.ownerOf(w.Dst), fmt.Sprintf("%s (protocol %d)", h, h.Proto))
		},
	}, ours, n.rivals(foreign))
	c.setNeigh, c.delNeigh = n.want.neighs.compare(judge[neighKey, rtnl.Neigh]{
		ours:     func(h *rtnl.Neigh) bool { return h.Proto == Proto || n.o.Adopt },
		same:     sameNeigh,
		replaces: func(h, w *rtnl.Neigh) bool { return true },
		conflict: func(h, w *rtnl.Neigh) {
			conflict(w, n.ownerOf(netip.PrefixFrom(w.IP, w.IP.BitLen())), h.String())
		},
	}, k.neighs)
	c.setFDB, c.delFDB = n.want.fdbs.compare(judge[fdbKey, rtnl.FDB]{
		ours: func(h *rtnl.FDB) bool {
			// What was learned of a peer goes with it; else frames would go there until it ages.
			return h.Extern || n.o.Adopt || h.Learned && !n.want.fdbs.has(fdbKey{link: h.Link, dst: h.Dst})
		},
		same:     sameFDB,
		replaces: func(h, w *rtnl.FDB) bool { return h.MAC != (inet.MAC{}) },
		conflict: func(h, w *rtnl.FDB) {
			conflict(w, n.endOf(w.Dst), h.String())
		},
	}, k.fdbs)
	c.setTunnel, c.delTunnel = n.want.tunnel.compare(judgeTunnel, k.tunnel)
	if len(c.setTunnel) > 0 {
		c.wasTunnel = make(map[peerKey]tunnelPeer, len(k.tunnel))
		for _, t := range k.tunnel {
			c.wasTunnel[t.key] = t
		}
	}
	return c, refused, nil
}

// gatewayOf is the address of this library that a route on its link is there for, which the kernel made for it or a plugin did.
func gatewayOf(r *rtnl.Route, addrs []rtnl.Addr) netip.Prefix {
	for _, a := range addrs {
		if a.Link == r.Link && a.Proto == Proto && !r.Via.IsValid() && (a.Prefix.Masked() == r.Dst || r.Src == a.Prefix.Addr()) {
			return a.Prefix
		}
	}
	return netip.Prefix{}
}

func names(links []rtnl.Link) func(int) string {
	return func(i int) string {
		for _, l := range links {
			if l.Index == i {
				return l.Name
			}
		}
		return ""
	}
}

// sort parts the routes of this node from the foreign ones, in place. Ours of another layer, or of nobody's, are left out:
// they do not stand in the way.
func (n *Node) sort(all []rtnl.Route) (ours, foreign []rtnl.Route) {
	ours = all[:0]
	for i := range all {
		r := &all[i]
		switch {
		case n.owns(r):
			ours = append(ours, *r)
		case r.Proto != Proto || n.inLayer(r.Metric):
			foreign = append(foreign, *r)
		}
	}
	return ours, foreign
}

// owns reports whether a route is this node's to change.
func (n *Node) owns(r *rtnl.Route) bool {
	own, shared := n.ownLink(r.Link)
	if r.Proto != Proto || !n.inLayer(r.Metric) {
		return n.o.Adopt && (r.Proto == unix.RTPROT_BOOT || r.Proto == unix.RTPROT_STATIC) && r.Type == unicast &&
			len(n.o.Prefixes) > 0 && n.o.holds(r.Dst) && (own && !shared || n.direct(r))
	}
	switch {
	case own && !shared:
		return true
	case own, n.direct(r):
		return n.o.holds(r.Dst)
	}
	return false
}

// direct reports whether a route may be one past the tunnels, over a link that is no overlay's.
func (n *Node) direct(r *rtnl.Route) bool {
	if !r.Via.IsValid() {
		return false
	}
	_, foreign := n.others[r.Link]
	return !foreign
}

// rivals are the foreign routes to a wanted range.
func (n *Node) rivals(foreign []rtnl.Route) []rtnl.Route {
	var all []rtnl.Route
	for _, r := range foreign {
		if n.want.routes.has(r.Dst) {
			all = append(all, r)
		}
	}
	return all
}

// underlay is what the endpoints are reached by: the main table, whatever table ours are in. What is on our own devices is
// no part of it, so that it stays the same when they are made.
func (n *Node) underlay(links []rtnl.Link, routes []rtnl.Route, addrs []rtnl.Addr) (*underlay, error) {
	if n.o.Table != mainTable {
		all, err := n.conn.Routes(rtnl.RouteFilter{Table: mainTable})
		if err != nil {
			return nil, err
		}
		routes = all
	}
	routes = slices.DeleteFunc(slices.Clone(routes), func(r rtnl.Route) bool { return r.Proto == Proto || n.onDevice(r.Link) })
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a rtnl.Addr) bool { return n.onDevice(a.Link) })
	return newUnderlay(n.conn, links, routes, addrs)
}

func (n *Node) ownerOf(r netip.Prefix) string {
	for _, p := range n.list {
		if slices.ContainsFunc(p.Pods, func(q netip.Prefix) bool { return q.Overlaps(r) }) {
			return p.Name
		}
	}
	return ""
}

func (n *Node) endOf(a netip.Addr) string {
	for _, p := range n.list {
		if p.V4.Addr == a || p.V6.Addr == a {
			return p.Name
		}
	}
	return ""
}
