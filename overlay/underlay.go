//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// path is how packets leave this node towards an endpoint.
type path struct {
	link int
	mtu  int        // bytes; 0 is not known
	via  netip.Addr // the router, if the endpoint is not on the link
	err  error      // there is no way
	own  bool       // it is an address of this node
}

// alive are the flags of a link that packets depend on.
const alive = unix.IFF_UP | unix.IFF_LOWER_UP

// underlay is the network below: the links with their MTU, this node's addresses on them, the routes to endpoints. It answers
// where packets to an address go, from one dump of the routes where the rules are the kernel's own, else by asking the kernel.
type underlay struct {
	links  map[int]rtnl.Link
	routes []rtnl.Route // none of ours
	plain  bool         // no rules but the default ones
	local  map[netip.Addr]int
	ask    func([]netip.Addr) []path

	byDst map[netip.Prefix]rtnl.Route
	bits  [2][]int            // the lengths that occur, longest first; IPv4, IPv6
	known map[netip.Addr]path // what the kernel was asked for

	lastAddr netip.Addr // of the last question, which mostly is the next one too
	last     path

	hot     [2]netip.Prefix // the last route of the longest length, which holds most of the next endpoints too; IPv4, IPv6
	hotPath [2]path
	widest  [2]int // the largest MTU of the paths to the peers; IPv4, IPv6
}

// newUnderlay is what the endpoints are reached by. links are all links of the node, routes and addresses those that are none
// of its own devices', so that it stays the same when these are made.
func newUnderlay(c *rtnl.Conn, links []rtnl.Link, routes []rtnl.Route, addrs []rtnl.Addr) (*underlay, error) {
	u := &underlay{links: make(map[int]rtnl.Link), local: make(map[netip.Addr]int), byDst: make(map[netip.Prefix]rtnl.Route),
		known: make(map[netip.Addr]path), routes: routes}
	var err error
	if u.plain, err = c.OnlyDefaultRules(); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		u.local[a.Prefix.Addr()] = a.Link
	}
	used := make(map[int]bool)
	for _, r := range routes {
		used[r.Link] = true
		u.add(r)
	}
	for _, link := range u.local {
		used[link] = true
	}
	for _, l := range links {
		if used[l.Index] || !u.plain {
			u.links[l.Index] = rtnl.Link{Index: l.Index, Name: l.Name, Kind: l.Kind, MTU: l.MTU, Flags: l.Flags & alive}
		}
	}
	for i := range u.bits {
		slices.Sort(u.bits[i])
		u.bits[i] = slices.Compact(u.bits[i])
		slices.Reverse(u.bits[i])
	}
	u.ask = func(to []netip.Addr) []path { return askKernel(c, u, to) }
	return u, nil
}

func (u *underlay) add(r rtnl.Route) {
	if have, ok := u.byDst[r.Dst]; ok && have.Metric <= r.Metric {
		return
	}
	u.byDst[r.Dst] = r
	i := b2i(r.Dst.Addr().Is6())
	u.bits[i] = append(u.bits[i], r.Dst.Bits())
}

// sameAs reports whether both give the same answers.
func (u *underlay) sameAs(v *underlay) bool {
	if v == nil || !u.plain || !v.plain || len(u.links) != len(v.links) || len(u.local) != len(v.local) {
		return false
	}
	for i, l := range u.links {
		if v.links[i] != l {
			return false
		}
	}
	for a, i := range u.local {
		if j, ok := v.local[a]; !ok || i != j {
			return false
		}
	}
	return slices.Equal(u.routes, v.routes)
}

// to is the path to an endpoint.
func (u *underlay) to(a netip.Addr) path {
	if a == u.lastAddr {
		return u.last
	}
	p, ok := u.compute(a)
	if !ok {
		if p, ok = u.known[a]; !ok {
			p = u.ask([]netip.Addr{a})[0]
			u.known[a] = p
		}
	}
	u.lastAddr, u.last = a, p
	return p
}

// prepare looks at the paths to all peers: it asks the kernel for many at once, where it must be asked at all, and finds
// the widest.
func (u *underlay) prepare(to []netip.Addr) {
	var ask []netip.Addr
	for _, a := range to {
		if p, ok := u.compute(a); ok {
			u.widen(a, p)
		} else {
			ask = append(ask, a)
		}
	}
	for i, p := range u.ask(ask) {
		u.known[ask[i]] = p
		u.widen(ask[i], p)
	}
}

func (u *underlay) widen(a netip.Addr, p path) {
	i := b2i(a.Is6())
	u.widest[i] = max(u.widest[i], p.mtu)
}

// compute looks for the longest prefix; false says that the kernel must be asked.
func (u *underlay) compute(a netip.Addr) (path, bool) {
	if !u.plain {
		return path{}, false
	}
	i := b2i(a.Is6())
	if u.hot[i].Contains(a) {
		return u.unlessLocal(a, u.hotPath[i]), true
	}
	lengths := u.bits[i]
	for _, bits := range lengths {
		dst, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		r, ok := u.byDst[dst]
		if !ok {
			continue
		}
		if r.Multiple || r.NextHop != 0 || r.Link == 0 || r.Type != unix.RTN_UNICAST {
			return path{}, false
		}
		p := u.along(a, r)
		if bits == lengths[0] && p.err == nil {
			u.hot[i], u.hotPath[i] = dst, p
		}
		return u.unlessLocal(a, p), true
	}
	return path{}, false // table default may know
}

// along is the path by a route to an address that is not this node's own.
func (u *underlay) along(a netip.Addr, r rtnl.Route) path {
	l := u.links[r.Link]
	p := path{link: r.Link, mtu: l.MTU, via: r.Via}
	if r.MTU != 0 && int(r.MTU) < p.mtu {
		p.mtu = int(r.MTU)
	}
	switch {
	case !l.Up():
		p.err = fmt.Errorf("the way to %s is over %s, which is down", a, l.Name)
	case l.Flags&unix.IFF_LOWER_UP == 0:
		p.err = fmt.Errorf("the way to %s is over %s, which has no carrier", a, l.Name)
	}
	return p
}

func (u *underlay) unlessLocal(a netip.Addr, p path) path {
	if link, ok := u.local[a]; ok {
		return path{link: link, own: true, err: fmt.Errorf("%s is an address of this node: state the peer's own", a)}
	}
	return p
}

// askKernel looks up addresses in batches whose answers fit into a socket's buffer.
func askKernel(c *rtnl.Conn, u *underlay, to []netip.Addr) []path {
	const batch = 64
	paths := make([]path, len(to))
	for start := 0; start < len(to); start += batch {
		end := min(start+batch, len(to))
		var msgs []*rtnl.Msg
		for i := start; i < end; i++ {
			paths[i].err = fmt.Errorf("no route to %s", to[i])
			msgs = append(msgs, rtnl.RouteTo(to[i], func(r rtnl.Route) {
				switch {
				case r.Type == unix.RTN_LOCAL:
					paths[i] = path{link: r.Link, own: true, err: fmt.Errorf("%s is an address of this node: state the peer's own", to[i])}
				case r.Type == unix.RTN_UNICAST:
					paths[i] = u.unlessLocal(to[i], u.along(to[i], r))
				}
			}))
		}
		// Each address without a route is an error of its own; it has one already.
		if err := c.Do(msgs...); errors.Is(err, unix.ENOBUFS) {
			for i := start; i < end; i++ {
				paths[i].err = err
			}
		}
	}
	return paths
}

var anywhere = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

// base is the MTU of the link that bears an endpoint of this node, else of that with the default route, 0 if there is none either.
func (u *underlay) base(own netip.Addr) int {
	link, ok := u.local[own]
	if !ok && own.IsValid() {
		link = u.byDst[netip.PrefixFrom(anywhere[b2i(own.Is6())], 0)].Link
	}
	return u.links[link].MTU
}

func (u *underlay) isLocal(a netip.Addr) bool {
	_, ok := u.local[a]
	return ok
}
