//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer"
)

// translated is a driver whose tunnels may end at an address that is on none of this node's links, since a router translates
// it.
type translated interface {
	translated(s *site, f inet.Family) (bool, error)
}

// ownEnds fails if the peers' packets cannot arrive: an endpoint of this node that tunnels run to is on none of its links,
// or on one that is down.
func (p *pass) ownEnds() error {
	addrs, err := p.conn.Addrs(0)
	if err != nil {
		return err
	}
	for _, f := range p.site.o.families() {
		if !p.site.uses(f) {
			continue
		}
		if err := p.ownEnd(f, addrs); err != nil {
			return err
		}
	}
	return nil
}

// uses reports whether tunnels run over the family: to the peers or, as long as there are none, to one that is as this node.
func (s *site) uses(f inet.Family) bool {
	over := func(p peer.Peer) bool {
		to := s.d.ways(s, &p)
		return inet.FamilyOf(to[0]) == f || inet.FamilyOf(to[1]) == f
	}
	if len(s.members.list) == 0 {
		return over(s.o.Node)
	}
	return slices.ContainsFunc(s.members.list, over)
}

func (p *pass) ownEnd(f inet.Family, addrs []rtnl.Addr) error {
	own := p.site.o.Node.Endpoint(f).Addr
	var down string
	for _, a := range addrs {
		if a.Prefix.Addr() != own || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		var l rtnl.Link
		switch err := p.conn.Do(rtnl.GetLinkIndex(a.Link, func(have rtnl.Link) { l = have })); {
		case notThere(err) != nil:
			return err
		case err == nil && l.Up():
			return nil
		case err == nil:
			down = l.Name
		}
	}
	if down != "" {
		return fmt.Errorf("the link %s, which has this node's %s address %s, is down: set it up", down, f, own)
	}
	if d, ok := p.site.d.(translated); ok {
		if ok, err := d.translated(&p.site, f); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("this node has lost its %s address: %s, its endpoint in network %q, is on none of its links; give it to one, or state another endpoint",
		f, own, p.site.o.Network)
}

// Ready reports what makes it impossible now to carry packets to the peers of the last list, nil if nothing does: no address,
// link or route, an MTU that is too small, a key that cannot be read, an encapsulation that this kernel lacks. What a Set
// would mend is no obstacle. It writes nothing to the node's kernel.
func (n *Node) Ready(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.open(); err != nil {
		return err
	}
	p := n.begin()
	defer p.end()
	defer func() { // the plans were made by another underlay, perhaps
		n.forget()
		n.site.under = nil
	}()
	want, err := p.wantedDevices()
	if err != nil {
		return err
	}
	links, err := n.conn.Links("")
	if err != nil {
		return err
	}
	if err := p.canHave(want, links); err != nil {
		return err
	}
	p.settle(want, links)
	routes, err := n.conn.Routes(rtnl.RouteFilter{Table: mainTable})
	if err != nil {
		return err
	}
	addrs, err := n.conn.Addrs(0)
	if err != nil {
		return err
	}
	if n.site.under, err = p.underlay(links, routes, addrs); err != nil {
		return err
	}
	n.site.look()
	n.survey = survey{skipped: n.survey.skipped}
	for i := range n.site.members.list {
		mtu, _ := n.survey.way(&n.site, &n.site.members.list[i])
		n.survey.least = smaller(n.survey.least, mtu)
	}
	if _, err := p.mtus(links); err != nil {
		return err
	}
	return n.survey.cutOff(n.site.o.Network)
}

// canHave fails if a device that is missing cannot be made.
func (p *pass) canHave(want []device, links []rtnl.Link) error {
	tried := map[string]bool{}
	for _, d := range want {
		if i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == d.name }); i >= 0 {
			if err := p.site.o.mayUse(links[i], d); err != nil {
				return err
			}
			continue
		}
		for _, l := range links {
			if t := l.Tunnel(); t != nil && excludes(t, d.tunnel) {
				return inTheWay(p.conn, d, unix.EEXIST)
			}
		}
		if tried[d.tunnel.Kind()] {
			continue
		}
		tried[d.tunnel.Kind()] = true
		if err := try(d); err != nil {
			return err
		}
	}
	return nil
}

// try makes a device in a namespace that nobody else has.
func try(d device) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	if err := c.Do(rtnl.NewTunnel(d.name, d.mac, 0, d.tunnel)); errors.Is(err, unix.EOPNOTSUPP) {
		return noKind(d, err)
	}
	return nil
}

func noKind(d device, cause error) error {
	return fmt.Errorf("device %s: this kernel has no links of kind %s, or refuses its parameters: %w", d.name, d.tunnel.Kind(), cause)
}
