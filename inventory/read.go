//go:build linux

package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/route"
)

// Where the plugins and the runtimes keep things on a machine.
const (
	DefaultStateDir = node.DefaultStateDir
	DefaultConfDir  = "/etc/cni/net.d"

	// DefaultFlannelDir is the data directory of the flannel plugin.
	DefaultFlannelDir = "/var/lib/cni/flannel"
)

// Options say where to look. NS is needed.
type Options struct {
	NS *netns.NS
	// DataDirs hold the leases of networks and the records of the flannel plugin, in place of the defaults of those and of
	// what the conflists in ConfDir name.
	DataDirs []string
	ConfDir  string // of conflists; "": DefaultConfDir
	StateDir string // "": DefaultStateDir
	Network  string // one that is asked for: its name is known where marks have only room for a hash, and no directory has it
}

// Read looks at everything. A part that cannot be read is named in [Node.Unread], and the rest is there; it fails only if
// not even the links can be listed.
func Read(ctx context.Context, o Options) (*Node, error) {
	c, err := rtnl.Open(o.NS)
	if err != nil {
		return nil, err
	}
	r := &reader{Options: o, c: c, n: &Node{Namespace: o.NS.Path()}, peers: map[peerKey]int{}}
	if r.StateDir == "" {
		r.StateDir = DefaultStateDir
	}
	if r.ConfDir == "" {
		r.ConfDir = DefaultConfDir
	}
	if r.links, err = c.Links(""); err != nil {
		return nil, err
	}
	if r.addrs, err = c.Addrs(0); err != nil {
		return nil, err
	}
	r.try("leases", r.readLeases)
	r.try("records", r.readRecords)
	r.try(r.StateDir, r.readState)
	r.readBridges()
	r.readDevices()
	r.try("pods", func() error { return r.readAttachments(ctx) })
	r.try("rate limits", func() error { return r.readRates(ctx) })
	r.readPorts()
	r.try("routes", func() error { return r.readRoutes(ctx) })
	r.readForwarding()
	r.try("firewall", func() error { return r.readFirewall(ctx) })
	r.settleLeases()
	r.sort()
	return r.n, ctx.Err()
}

// reader holds what several parts need. It is large since each kind of thing on a node has a method that reads it.
type reader struct {
	Options
	c     *rtnl.Conn
	n     *Node
	links []rtnl.Link
	addrs []rtnl.Addr

	endpoints []netip.Addr    // of this node, as networks state it
	peers     map[peerKey]int // where they are in the list
}

// try notes the error of a part.
func (r *reader) try(part string, read func() error) {
	if err := read(); err != nil {
		r.n.Unread = append(r.n.Unread, fmt.Sprintf("%s: %v", part, err))
	}
}

func (r *reader) link(index int) rtnl.Link {
	for _, l := range r.links {
		if l.Index == index {
			return l
		}
	}
	return rtnl.Link{}
}

// addrsOf are the addresses of a link that somebody gave it.
func (r *reader) addrsOf(index int) []Addr {
	out := []Addr{}
	for _, a := range r.addrs {
		if a.Link != index || linkLocal(a.Prefix.Addr()) {
			continue
		}
		who := Foreign
		if a.Proto == addrProto {
			who = Ours
		}
		out = append(out, Addr{a.Prefix, who})
	}
	return out
}

func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func (r *reader) readForwarding() {
	on := func(f inet.Family) bool {
		err := route.CheckForward(context.Background(), r.NS, f)
		if err != nil && !errors.Is(err, route.ErrNotForwarding) && !errors.Is(err, fs.ErrNotExist) {
			r.n.Unread = append(r.n.Unread, fmt.Sprintf("forwarding: %v", err))
		}
		return err == nil
	}
	r.n.ForwardIPv4, r.n.ForwardIPv6 = on(inet.IPv4), on(inet.IPv6)
}

func (r *reader) readRoutes(ctx context.Context) error {
	all, err := r.c.Routes(rtnl.RouteFilter{})
	if err != nil {
		return err
	}
	for _, w := range all {
		if w.Proto == link.Proto {
			dev := r.link(w.Link).Name
			r.n.Routes = append(r.n.Routes, Route{Dst: w.Dst, Via: w.Via, Device: dev, Src: w.Src, Metric: w.Metric,
				Table: w.Table, Encap: encap(w.Encap), Network: cmp.Or(r.networkOf(dev), r.n.OfPrefix(w.Dst))})
		}
	}
	r.readTunnels()
	err = r.readPeers(ctx, all)
	r.readUplinks(all)
	return err
}

func encap(e rtnl.Encap) string {
	if !e.Dst.IsValid() {
		return ""
	}
	return fmt.Sprintf("id %d to %s", e.ID, e.Dst)
}

// networkOf is the network of a device of ours, if it has but one.
func (r *reader) networkOf(dev string) string {
	for _, d := range r.n.Devices {
		if d.Name == dev && len(d.Networks) == 1 {
			return d.Networks[0]
		}
	}
	for _, b := range r.n.Bridges {
		if b.Name == dev {
			return b.Network
		}
	}
	for _, a := range r.n.Attachments {
		if a.HostEnd == dev && a.Owner == Ours {
			return a.Network
		}
	}
	return ""
}

// sort makes two readings of the same state equal, and no list null in JSON.
func (r *reader) sort() {
	n := r.n
	by(&n.Uplinks, func(u Uplink) string { return u.Name })
	by(&n.Bridges, func(b Bridge) string { return b.Name })
	by(&n.Attachments, func(a Attachment) string {
		return a.Bridge + "\x00" + a.Network + "\x00" + a.ContainerID + "\x00" + a.IfName + "\x00" + a.HostEnd
	})
	by(&n.Ports, func(p Port) string { return p.Bridge + "\x00" + p.Name })
	by(&n.Devices, func(d Device) string { return d.Name })
	by(&n.SNAT, func(s SNAT) string { return s.Network + "\x00" + s.Backend })
	by(&n.Forward, func(f Forward) string { return f.Network + "\x00" + f.Table })
	by(&n.Guards, func(g Guard) string { return g.HostEnd + "\x00" + g.Entry })
	by(&n.Rates, func(r Rate) string { return r.Device + "\x00" + r.Helper })
	by(&n.HostPorts, func(p HostPort) string {
		return p.Network + "\x00" + p.ContainerID + "\x00" + p.Protocol + "\x00" + p.Host.String()
	})
	by(&n.Hidden, func(h Hidden) string { return h.Device + "\x00" + h.Addr.String() })
	by(&n.LeaseDirs, func(d LeaseDir) string { return d.Network + "\x00" + d.DataDir })
	by(&n.Records, func(d RecordDir) string { return d.Network + "\x00" + d.Path })
	by(&n.State, func(d StateDir) string { return d.Network + "\x00" + d.Path })
	by(&n.Obstacles, func(o Obstacle) string { return o.What })
	slices.SortFunc(n.Leases, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Dir, b.Dir), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(n.Routes, func(a, b Route) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Metric, b.Metric))
	})
	for _, p := range n.Peers {
		slices.SortFunc(p.Pods, func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
	}
	slices.SortFunc(n.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Device, b.Device), a.Endpoint.Compare(b.Endpoint))
	})
	n.Peers = orEmpty(n.Peers)
	n.Leases, n.Routes = orEmpty(n.Leases), orEmpty(n.Routes)
}

func by[T any](list *[]T, key func(T) string) {
	slices.SortFunc(*list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	*list = orEmpty(*list)
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
