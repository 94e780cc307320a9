//go:build linux

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// Endpoints say which of the node's addresses the others send to. The first of these that is stated decides; none of
// them: the addresses of the link with the default route.
type Endpoints struct {
	Addrs     []netip.Addr   // these, at most one of each family
	Interface *regexp.Regexp // those of the first link, by index, whose whole name it matches and that has any
	CanReach  []netip.Addr   // the source addresses of packets to these, at most one of each family; nothing is sent there
}

func (e Endpoints) dynamic() bool { return len(e.Addrs) == 0 }

// found are addresses, IPv4 and IPv6.
type found [2]netip.Addr

func (f *found) put(a netip.Addr) {
	i := 0
	if a.Is6() {
		i = 1
	}
	if !f[i].IsValid() {
		f[i] = a
	}
}

// find looks at the namespace. Addresses that were found before stay as long as they would do.
func (e Endpoints) find(c *rtnl.Conn, ofPods func(netip.Addr) bool) (at found, err error) {
	if len(e.Addrs) > 0 {
		for _, a := range e.Addrs {
			at.put(a)
		}
		return at, nil
	}
	addrs, err := c.Addrs(0)
	if err != nil {
		return at, err
	}
	addrs = slices.DeleteFunc(addrs, func(a rtnl.Addr) bool { return !usable(a) || ofPods(a.Prefix.Addr()) })
	switch {
	case e.Interface != nil:
		err = e.byName(c, addrs, &at)
	case len(e.CanReach) > 0:
		err = e.byRoute(c, &at)
	default:
		err = byDefault(c, addrs, &at)
	}
	return at, err
}

// usable leaves out what is no address of this node's to others, or not for long.
func usable(a rtnl.Addr) bool {
	ip := a.Prefix.Addr()
	const passing = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	const temporary = unix.IFA_F_TEMPORARY // IPv6; of IPv4 the same bit says secondary
	return ip.IsGlobalUnicast() && a.Flags&passing == 0 && (ip.Is4() || a.Flags&temporary == 0)
}

// all takes the addresses of a link, primary ones first.
func (f *found) all(addrs []rtnl.Addr, link int) {
	for _, secondary := range []bool{false, true} {
		for _, a := range addrs {
			if a.Link == link && (a.Flags&unix.IFA_F_SECONDARY != 0) == secondary {
				f.put(a.Prefix.Addr())
			}
		}
	}
}

func (e Endpoints) byName(c *rtnl.Conn, addrs []rtnl.Addr, at *found) error {
	links, err := c.Links("")
	if err != nil {
		return err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
		if m := e.Interface.FindString(l.Name); m != l.Name {
			continue
		}
		if at.all(addrs, l.Index); *at != (found{}) {
			return nil
		}
	}
	return fmt.Errorf("interface %q: no link of that name has an address; there are %s: state another expression, or the node's address", e.Interface, strings.Join(names, ", "))
}

func (e Endpoints) byRoute(c *rtnl.Conn, at *found) error {
	for _, to := range e.CanReach {
		var way rtnl.Route
		if err := c.Do(rtnl.RouteTo(to, func(r rtnl.Route) { way = r })); err != nil {
			return fmt.Errorf("can-reach %s: %w: state an address that this node has a route to", to, err)
		}
		if !way.Src.IsValid() {
			return fmt.Errorf("can-reach %s: the route has no source address: state the node's address", to)
		}
		at.put(way.Src)
	}
	return nil
}

// byDefault takes the addresses of the links with the default routes.
func byDefault(c *rtnl.Conn, addrs []rtnl.Addr, at *found) error {
	routes, err := c.Routes(rtnl.RouteFilter{Table: unix.RT_TABLE_MAIN})
	if err != nil {
		return err
	}
	slices.SortStableFunc(routes, func(a, b rtnl.Route) int { return int(int64(a.Metric) - int64(b.Metric)) })
	for _, r := range routes {
		if r.Dst.Bits() != 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		var here found
		if r.Src.IsValid() {
			here.put(r.Src)
		}
		here.all(addrs, r.Link)
		for _, a := range here {
			if a.IsValid() && a.Is4() == r.Dst.Addr().Is4() {
				at.put(a)
			}
		}
	}
	if *at == (found{}) {
		return errors.New("this node's address is not known, since it has no default route: state it, or the interface that has it")
	}
	return nil
}

func (f found) list() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(f[:]), func(a netip.Addr) bool { return !a.IsValid() })
}
