//go:build linux

// Package link reads, changes and removes network interfaces of any kind (ip-link(8)), makes those of one namespace and the
// sub-interfaces of devices of another, and carries out changes of links, addresses and routes together, by one system call.
//
// What this library makes it marks: see [Alias], [Group] and [Proto].
//
// Every function takes the namespace that it is about; a nil one is an error. A context ends what has not begun: a single
// call to the kernel is not interrupted.
package link

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Link is an interface as it is; comparable.
type Link struct {
	Name    string
	Index   int
	Kind    string   // "veth", "bridge", "vxlan" ...; empty for hardware and the loopback
	MAC     inet.MAC // zero where the kind has none
	MTU     int      // bytes
	Alias   string   // see [Alias]
	Up      bool     // set up
	Carrier bool     // packets pass: the operational state is up (RFC 2863)
	Promisc bool     // set to promiscuous mode
	Master  int      // index of the bridge or VRF that it is a port of; 0 is none
	Lower   int      // index of the device that it stands on; of a veth that of the other end, in that one's namespace
	Group   uint32
	Details Kind // what it is beside its kind's name; nil for kinds that [Create] does not make

	Hairpin, Isolated bool // of a port of a bridge: frames may leave where they came in; none from and to other such ports
}

func of(l rtnl.Link) Link {
	return Link{Name: l.Name, Index: l.Index, Kind: l.Kind, MAC: l.MAC, MTU: l.MTU, Alias: l.Alias, Up: l.Up(),
		Carrier: l.OperState == rtnl.OperUp, Promisc: l.Flags&unix.IFF_PROMISC != 0, Master: l.Master, Lower: l.Peer, Group: l.Group,
		Details: kindOf(l.Device()), Hairpin: l.Port.Hairpin, Isolated: l.Port.Isolated}
}

// Get finds an interface by its name. None is [io/fs.ErrNotExist].
func Get(ctx context.Context, ns *netns.NS, name string) (Link, error) {
	return find(ctx, ns, func(c *rtnl.Conn) (rtnl.Link, error) { return c.LinkByName(name) })
}

// At finds an interface by its index. None is [io/fs.ErrNotExist].
func At(ctx context.Context, ns *netns.NS, index int) (Link, error) {
	return find(ctx, ns, func(c *rtnl.Conn) (rtnl.Link, error) { return c.LinkByIndex(index) })
}

func find(ctx context.Context, ns *netns.NS, how func(*rtnl.Conn) (rtnl.Link, error)) (Link, error) {
	c, err := open(ctx, ns)
	if err != nil {
		return Link{}, err
	}
	l, err := how(c)
	if err != nil {
		return Link{}, err
	}
	return of(l), nil
}

// List yields the interfaces of a kind, of all kinds if it is empty, in the order of their indexes.
func List(ctx context.Context, ns *netns.NS, kind string) ([]Link, error) {
	c, err := open(ctx, ns)
	if err != nil {
		return nil, err
	}
	have, err := c.Links(kind)
	if err != nil {
		return nil, err
	}
	links := make([]Link, len(have))
	for i, l := range have {
		links[i] = of(l)
	}
	return links, nil
}

// Delete removes an interface, and of a veth the other end too. When it returns its name is free. The kind guards against
// a name that now means another thing: a device of another kind stays, and is an error; so is none of that name, which is
// [io/fs.ErrNotExist].
func Delete(ctx context.Context, ns *netns.NS, name, kind string) error {
	c, err := open(ctx, ns)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(name)
	if err != nil {
		return err
	}
	if err := isKind(l, kind); err != nil {
		return err
	}
	return c.Do(rtnl.DelLinkIndex(l.Index))
}

func isKind(l rtnl.Link, kind string) error {
	if l.Kind != kind {
		return fmt.Errorf("%s is of kind %q, not %q: it stays", l.Name, l.Kind, kind)
	}
	return nil
}

func open(ctx context.Context, ns *netns.NS) (*rtnl.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return rtnl.Open(ns)
}
