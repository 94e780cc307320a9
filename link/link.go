//go:build linux

// Package link reads, changes and removes network interfaces of any kind (ip-link(8)), and carries out changes of links,
// addresses and routes together, by one system call.
//
// What this library makes it marks: see [Alias], [Group] and [Proto]. Removal goes by the mark, so that what others made
// is never touched.
//
// Every function takes the namespace that it is about; a nil one is an error. A context ends what has not begun: a single
// call to the kernel is not interrupted.
package link

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/rtnl"
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
}

func of(l rtnl.Link) Link {
	return Link{Name: l.Name, Index: l.Index, Kind: l.Kind, MAC: l.MAC, MTU: l.MTU, Alias: l.Alias, Up: l.Up(),
		Carrier: l.OperState == rtnl.OperUp, Promisc: l.Flags&unix.IFF_PROMISC != 0, Master: l.Master, Lower: l.Peer, Group: l.Group}
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
	if l.Kind != kind {
		return fmt.Errorf("%s is of kind %q, not %q: it stays", name, l.Kind, kind)
	}
	return c.Do(rtnl.DelLinkIndex(l.Index))
}

// DeleteAll removes interfaces by one deletion: 200 take little longer than two. Those that are gone are passed over.
func DeleteAll(ctx context.Context, ns *netns.NS, links ...Link) error {
	if len(links) == 0 {
		return ctx.Err()
	}
	c, err := open(ctx, ns)
	if err != nil {
		return err
	}
	group, err := freeGroup(c)
	if err != nil {
		return err
	}
	msgs := make([]*rtnl.Msg, len(links))
	for i, l := range links {
		msgs[i] = rtnl.SetLink(rtnl.Set{Index: l.Index, Group: group})
	}
	if err := rtnl.Except(c.Do(msgs...), fs.ErrNotExist); err != nil {
		return err
	}
	return rtnl.Except(c.Do(rtnl.DelLinkGroup(group)), fs.ErrNotExist)
}

// Retain removes the interfaces of a kind that bear an alias of the network, save those whose alias is among keep.
func Retain(ctx context.Context, ns *netns.NS, kind, network string, keep ...string) error {
	links, err := Marked(ctx, ns, kind, AliasPrefix(network))
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(keep))
	for _, alias := range keep {
		live[alias] = true
	}
	return DeleteAll(ctx, ns, slices.DeleteFunc(links, func(l Link) bool { return live[l.Alias] })...)
}

// Marked yields the interfaces of a kind whose alias begins with prefix.
func Marked(ctx context.Context, ns *netns.NS, kind, prefix string) ([]Link, error) {
	links, err := List(ctx, ns, kind)
	return slices.DeleteFunc(links, func(l Link) bool { return !strings.HasPrefix(l.Alias, prefix) }), err
}

// freeGroup chooses a link group that no link has.
func freeGroup(c *rtnl.Conn) (uint32, error) {
	links, err := c.Links("")
	if err != nil {
		return 0, err
	}
	for {
		group := rand.Uint32() | 1<<30 // far from what people choose
		if !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Group == group }) {
			return group, nil
		}
	}
}

func open(ctx context.Context, ns *netns.NS) (*rtnl.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return rtnl.Open(ns)
}
