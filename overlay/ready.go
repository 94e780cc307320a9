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
	translated(n *Node, f inet.Family) (bool, error)
}

// ownEnds fails if the peers' packets cannot arrive: an endpoint of this node that tunnels run to is on none of its links,
// or on one that is down.
func (n *Node) ownEnds() error {
	addrs, err := n.conn.Addrs(0)
	if err != nil {
		return err
	}
	for _, f := range n.o.families() {
		if !n.uses(f) {
			continue
		}
		if err := n.ownEnd(f, addrs); err != nil {
			return err
		}
	}
	return nil
}

// uses reports whether tunnels run over the family: to the peers or, as long as there are none, to one that is as this node.
func (n *Node) uses(f inet.Family) bool {
	over := func(p peer.Peer) bool {
		to := n.d.ways(n, &p)
		return inet.FamilyOf(to[0]) == f || inet.FamilyOf(to[1]) == f
	}
	if len(n.list) == 0 {
		return over(n.o.Node)
	}
	return slices.ContainsFunc(n.list, over)
}

func (n *Node) ownEnd(f inet.Family, addrs []rtnl.Addr) error {
	own := n.o.Node.Endpoint(f).Addr
	var down string
	for _, a := range addrs {
		if a.Prefix.Addr() != own || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		var l rtnl.Link
		switch err := n.conn.Do(rtnl.GetLinkIndex(a.Link, func(have rtnl.Link) { l = have })); {
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
	if d, ok := n.d.(translated); ok {
		if ok, err := d.translated(n, f); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("this node has lost its %s address: %s, its endpoint in network %q, is on none of its links; give it to one, or state another endpoint",
		f, own, n.o.Network)
}

// cutOff says that the list was applied, and that no peer of it can be reached now.
func (n *Node) cutOff() error {
	if n.cut == nil || n.reached > 0 {
		return nil
	}
	return fmt.Errorf("no peer of network %q can be reached: %w", n.o.Network, n.cut)
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
	want, err := n.wantedDevices()
	if err != nil {
		return err
	}
	links, err := n.conn.Links("")
	if err != nil {
		return err
	}
	if err := n.canHave(want, links); err != nil {
		return err
	}
	n.settle(want, links)
	routes, err := n.conn.Routes(rtnl.RouteFilter{Table: mainTable})
	if err != nil {
		return err
	}
	addrs, err := n.conn.Addrs(0)
	if err != nil {
		return err
	}
	if n.under, err = n.underlay(links, routes, addrs); err != nil {
		return err
	}
	n.survey()
	for i := range n.list {
		mtu, _ := n.way(&n.list[i])
		n.least = smaller(n.least, mtu)
	}
	if _, err := n.mtus(links); err != nil {
		return err
	}
	return n.cutOff()
}

// canHave fails if a device that is missing cannot be made.
func (n *Node) canHave(want []device, links []rtnl.Link) error {
	tried := map[string]bool{}
	for _, d := range want {
		if i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == d.name }); i >= 0 {
			if err := n.mayUse(links[i], d); err != nil {
				return err
			}
			continue
		}
		for _, l := range links {
			if t := l.Tunnel(); t != nil && excludes(t, d.tunnel) {
				return n.inTheWay(d, unix.EEXIST)
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
