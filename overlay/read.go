//go:build linux

package overlay

import (
	"context"
	"errors"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// read dumps what the comparison needs. Many routes are read beside many entries: the kernel lists them without the lock
// that it holds for the others.
func (p *pass) read(ctx context.Context) (err error) {
	const many = 1000
	p.have.tunnel, p.have.tunnelWrong = nil, false
	entries := func() error { return p.readEntries(p.conn) }
	if len(p.want.FDBs.Items) >= many {
		beside, err := rtnl.Dial(p.site.o.NS)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- p.readEntries(beside) }()
		entries = func() error { return errors.Join(<-done, beside.Close()) }
	}
	if err := errors.Join(p.readRoutes(), entries()); err != nil {
		return err
	}
	if t, ok := p.site.d.(tunneler); ok {
		right := false
		p.have.tunnel, right, err = t.readTunnel(ctx, &p.site)
		p.have.tunnelWrong = !right
	}
	return err
}

func (p *pass) readRoutes() (err error) {
	k := p.have
	room(&k.Routes, p.want.Routes)
	if k.Routes, err = p.conn.RoutesInto(k.Routes, rtnl.RouteFilter{Table: p.site.o.Table}); err != nil {
		return err
	}
	k.Addrs, err = p.conn.Addrs(0)
	return err
}

// readEntries reads neighbours and FDB entries. Only plain vxlan has some, and no driver has two such devices.
func (p *pass) readEntries(c *rtnl.Conn) (err error) {
	k := p.have
	room(&k.Neighs, p.want.Neighs)
	room(&k.FDBs, p.want.FDBs)
	neighs, fdbs := k.Neighs[:0], k.FDBs[:0]
	k.Neighs, k.FDBs = neighs, fdbs
	for _, d := range p.site.links.wanted {
		link, ok := p.site.links.index[d.name]
		v, plain := d.tunnel.(rtnl.VXLAN)
		if !ok || !plain || v.GPE {
			continue
		}
		if d.bridge == "" {
			if neighs, err = c.NeighsInto(neighs, link); err != nil {
				return err
			}
			// Entries that the kernel resolves itself are no one's.
			k.Neighs = slices.DeleteFunc(neighs, func(e rtnl.Neigh) bool { return e.Proto != Proto && !e.Permanent() })
		}
		if k.FDBs, err = c.FDBsInto(fdbs, link); err != nil {
			return err
		}
	}
	return nil
}

// room makes a slice for a dump large enough for what is wanted, and some more.
func room[K, V comparable](s *[]V, want *reconcile.Table[K, V]) {
	const more = 64
	if n := len(want.Items); cap(*s) < n {
		*s = make([]V, 0, n+more)
	}
}
