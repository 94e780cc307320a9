//go:build linux

package overlay

import (
	"context"
	"errors"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// read dumps what the comparison needs. Many routes are read beside many entries: the kernel lists them without the lock
// that it holds for the others.
func (n *Node) read(ctx context.Context) (k *kernel, err error) {
	const many = 1000
	k = &n.dump
	k.tunnel, k.tunnelWrong = nil, false
	entries := func() error { return n.readEntries(n.conn, k) }
	if len(n.want.fdbs.items) >= many {
		beside, err := rtnl.Dial(n.o.NS)
		if err != nil {
			return nil, err
		}
		done := make(chan error, 1)
		go func() { done <- n.readEntries(beside, k) }()
		entries = func() error { return errors.Join(<-done, beside.Close()) }
	}
	if err := errors.Join(n.readRoutes(k), entries()); err != nil {
		return k, err
	}
	if t, ok := n.d.(tunneler); ok {
		right := false
		k.tunnel, right, err = t.readTunnel(ctx, n)
		k.tunnelWrong = !right
	}
	return k, err
}

func (n *Node) readRoutes(k *kernel) (err error) {
	room(&k.routes, n.want.routes)
	if k.routes, err = n.conn.RoutesInto(k.routes, rtnl.RouteFilter{Table: n.o.Table}); err != nil {
		return err
	}
	k.addrs, err = n.conn.Addrs(0)
	return err
}

// readEntries reads neighbours and FDB entries. Only plain vxlan has some, and no driver has two such devices.
func (n *Node) readEntries(c *rtnl.Conn, k *kernel) (err error) {
	room(&k.neighs, n.want.neighs)
	room(&k.fdbs, n.want.fdbs)
	neighs, fdbs := k.neighs[:0], k.fdbs[:0]
	k.neighs, k.fdbs = neighs, fdbs
	for _, d := range n.devices {
		link, ok := n.links[d.name]
		v, plain := d.tunnel.(rtnl.VXLAN)
		if !ok || !plain || v.GPE {
			continue
		}
		if d.bridge == "" {
			if neighs, err = c.NeighsInto(neighs, link); err != nil {
				return err
			}
			// Entries that the kernel resolves itself are no one's.
			k.neighs = slices.DeleteFunc(neighs, func(e rtnl.Neigh) bool { return e.Proto != Proto && !e.Permanent() })
		}
		if k.fdbs, err = c.FDBsInto(fdbs, link); err != nil {
			return err
		}
	}
	return nil
}

// room makes a slice for a dump large enough for what is wanted, and some more.
func room[K comparable, V any](s *[]V, want *table[K, V]) {
	const more = 64
	if n := len(want.items); cap(*s) < n {
		*s = make([]V, 0, n+more)
	}
}
