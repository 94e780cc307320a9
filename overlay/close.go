//go:build linux

package overlay

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
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
	s := &n.site
	unlock, err := n.state.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := n.state.dropStamp(); err != nil {
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
	p := n.begin()
	defer p.end()
	p.adopt(links)
	routes, err := n.conn.Routes(rtnl.RouteFilter{Table: s.o.Table, Proto: Proto})
	if err != nil {
		return err
	}
	var c reconcile.Changes
	c.Del.Routes = slices.DeleteFunc(routes, func(r rtnl.Route) bool { return !s.owns(&r) })
	for _, a := range addrs {
		own, shared := s.links.own(a.Link)
		if own && shared && a.Proto == Proto && (s.o.holds(a.Prefix) && len(s.o.Prefixes) > 0 || slices.Contains(s.o.Node.NodeAddrs(), a.Prefix.Addr())) {
			c.Del.Addrs = append(c.Del.Addrs, a)
		}
	}
	err = c.Apply(n.conn, nil)
	for _, l := range links {
		if !s.links.has(l.Index) {
			continue
		}
		rest := slices.DeleteFunc(marked(l), s.o.isMine)
		if len(rest) > 0 {
			err = errors.Join(err, notThere(n.conn.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Alias: link.Root + strings.Join(rest, "+")}))))
		} else {
			err = errors.Join(err, notThere(n.conn.Do(rtnl.DelLinkIndex(l.Index))))
		}
	}
	n.reset()
	s.members.list = nil
	return err
}

// adopt makes the devices that bear this network's mark the known ones, whatever the configuration says.
func (p *pass) adopt(links []rtnl.Link) {
	var all []device
	for _, l := range links {
		if p.site.d.layer() == 1 && p.site.o.isOurs(l) && (l.Name == p.site.o.Device || strings.HasPrefix(l.Name, "cb-")) {
			all = append(all, device{name: l.Name, shared: len(marked(l)) > 1})
		}
	}
	p.settle(all, links)
}
