//go:build linux

package overlay

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// Close implements [Network]. It needs no list and no earlier call, goes on after an error, and leaves what other networks
// use.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.open(); err != nil {
		return err
	}
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := n.dropStamp(); err != nil {
		return err
	}
	links, err := n.conn.Links("")
	if err != nil {
		return err
	}
	addrs, err := n.conn.Addrs(0)
	if err != nil {
		return err
	}
	n.adopt(links)
	routes, err := n.conn.Routes(rtnl.RouteFilter{Table: n.o.Table, Proto: Proto})
	if err != nil {
		return err
	}
	c := changes{delRoute: slices.DeleteFunc(routes, func(r rtnl.Route) bool { return !n.owns(&r) })}
	for _, a := range addrs {
		own, shared := n.ownLink(a.Link)
		if own && shared && a.Proto == Proto && (n.o.holds(a.Prefix) && len(n.o.Prefixes) > 0 || slices.Contains(n.o.Node.NodeAddrs(), a.Prefix.Addr())) {
			c.delAddr = append(c.delAddr, a)
		}
	}
	err = gone(n.conn.Stream(c.removals()))
	for _, l := range links {
		if own, _ := n.ownLink(l.Index); !own {
			continue
		}
		rest := slices.DeleteFunc(marked(l), n.isMine)
		if len(rest) > 0 {
			err = errors.Join(err, gone(n.conn.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Alias: link.Root + strings.Join(rest, "+")}))))
		} else {
			err = errors.Join(err, gone(n.conn.Do(rtnl.DelLinkIndex(l.Index))))
		}
	}
	n.reset()
	n.list, n.devices = nil, nil
	return err
}

// adopt makes the devices that bear this network's mark the known ones, whatever the configuration says.
func (n *Node) adopt(links []rtnl.Link) {
	var all []device
	for _, l := range links {
		if n.d.layer() == 1 && n.isOurs(l) && (l.Name == n.o.Device || strings.HasPrefix(l.Name, "cb-")) {
			all = append(all, device{name: l.Name, shared: len(marked(l)) > 1})
		}
	}
	n.settle(all, links)
}
