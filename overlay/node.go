//go:build linux

package overlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// Node is this machine's part of an overlay network. It implements [Network].
//
// It remembers what it applied last, so that a Set with few changes costs only those. A new process remembers nothing and
// compares with the kernel.
type Node struct {
	o     Options
	encap Encap
	d     driver

	mu       sync.Mutex
	conn     *rtnl.Conn
	locked   bool             // the caller holds the network's lock
	list     []peer.Peer      // wanted last, this node left out; nil before the first
	devices  []device         // as wanted
	links    map[string]int   // indices of the devices that stand
	stale    map[int]struct{} // devices of this network that are not wanted
	others   map[int]struct{} // overlay devices of others: networks, or a second node of this one
	under    *underlay        // that the plans were made by
	want     objects
	claims   claims        // of the accepted peers
	disputes map[int]error // why peers, by place, may not have their ranges
	skipped  []error       // why peers are not in the plan
	refused  []error       // what the last full pass ended with
	applied  bool          // the kernel held want after our last write
	mtu      int           // for pods

	at       *peer.Peer              // that is being planned
	atMTU    int                     // of the path to it
	dump     kernel                  // its slices are used again
	src      [2]netip.Addr           // of IPv4 and IPv6 routes
	held     map[netip.Prefix]string // who had which range before the last list
	least    int                     // MTU of the narrowest path
	narrowed bool                    // least decides the pods' MTU
	widest   map[inet.Family]int     // MTU of the devices
	reached  int                     // peers that there is a way to
	cut      error                   // the first that there is none to; nil: there is to all
	amiss    bool                    // the last pass failed, so that what changes may mend it
}

var _ Network = (*Node)(nil)

// driver is what the encapsulations differ in. Its methods are called with the lock of the Node held.
type driver interface {
	devices(n *Node) ([]device, error)
	peerDevices(n *Node, p peer.Peer) []device  // for those with a device for each peer
	plan(n *Node, p *peer.Peer, to *plan) error // adds what can be done, and says why the rest cannot
	ways(n *Node, p *peer.Peer) [2]netip.Addr   // the endpoints that packets to the peer go to, some may be zero
	overhead(over inet.Family) int              // in bytes
	reach(n *Node) (peer.Reach, error)
	layer() uint32 // 0 for plain routes, 1 for tunnels
}

// tunneler is a driver with state that rtnetlink does not hold.
type tunneler interface {
	readTunnel(ctx context.Context, n *Node) (peers []tunnelPeer, right bool, err error) // right: the device itself
	applyTunnel(ctx context.Context, n *Node, c *changes) error
}

func (n *Node) open() (err error) {
	if n.conn == nil {
		n.conn, err = rtnl.Open(n.o.NS)
	}
	return err
}

// forget makes the next Set compare with the kernel.
func (n *Node) forget() { n.applied = false }

func (n *Node) reset() {
	n.forget()
	n.links, n.stale, n.others = map[string]int{}, map[int]struct{}{}, map[int]struct{}{}
	n.want, n.claims, n.skipped, n.refused, n.under = newObjects(0), nil, nil, nil, nil
}

// Ensure implements [Network].
func (n *Node) Ensure(ctx context.Context) (Self, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	unlock, err := n.lock(ctx)
	if err != nil {
		return Self{}, err
	}
	defer unlock()
	if err := n.pass(ctx); err != nil && OnlyRefused(err) == nil {
		return Self{}, err
	}
	return n.self()
}

func (n *Node) self() (Self, error) {
	r, err := n.d.reach(n)
	if err != nil {
		return Self{}, err
	}
	s := Self{Reach: r, Addrs: n.o.Node.NodeAddrs(), MTU: n.mtu}
	for _, d := range n.devices {
		s.Devices = append(s.Devices, d.name)
	}
	return s, nil
}

// Set implements [Network].
func (n *Node) Set(ctx context.Context, peers []peer.Peer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.applied {
		steps, ok := n.difference(peers)
		if ok && len(steps) == 0 {
			return errors.Join(n.refused...)
		}
		if ok && len(n.refused) == 0 {
			if done, err := n.step(ctx, steps); done {
				return err
			}
		}
	}
	n.take(peers)
	return n.full(ctx)
}

// Want implements [Network].
func (n *Node) Want(peers []peer.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.take(peers)
	n.under = nil
	n.forget()
}

// take copies the list; the caller may go on with his.
func (n *Node) take(peers []peer.Peer) {
	pods := 0
	for _, p := range peers {
		pods += len(p.Pods)
	}
	all := make([]netip.Prefix, 0, pods)
	list := make([]peer.Peer, 0, len(peers))
	for _, p := range peers {
		if p.Name == n.o.Node.Name {
			continue
		}
		from := len(all)
		all = append(all, p.Pods...)
		p.Pods = all[from:len(all):len(all)]
		list = append(list, p)
	}
	n.elders(list)
	n.list, n.under = list, nil
}

// Repair implements [Network].
func (n *Node) Repair(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.full(ctx)
}

// full compares the kernel with the list and applies the difference.
func (n *Node) full(ctx context.Context) error {
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return n.pass(ctx)
}

func (n *Node) pass(ctx context.Context) error {
	n.amiss = true
	links, err := n.ensure(ctx)
	if err != nil {
		n.forget()
		return err
	}
	c, refused, err := n.diff(ctx, links)
	if err != nil {
		n.forget()
		return err
	}
	if err := n.apply(ctx, &c); err != nil {
		return errors.Join(append([]error{err}, refused...)...)
	}
	if err := n.cutOff(); err != nil {
		n.forget()
		return err
	}
	n.amiss, n.applied = false, n.list != nil
	n.refused = refused
	return errors.Join(refused...)
}

// Check implements [Network].
func (n *Node) Check(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.open(); err != nil {
		return err
	}
	links, err := n.checkDevices()
	if err != nil {
		return err
	}
	c, refused, err := n.diff(ctx, links)
	if err != nil {
		return err
	}
	return errors.Join(append(append(c.words(names(links)), n.cutOff()), refused...)...)
}

// apply writes the difference, what is new before what goes.
func (n *Node) apply(ctx context.Context, c *changes) error {
	if c.empty() {
		return nil
	}
	if err := ctx.Err(); err != nil {
		n.forget()
		return err
	}
	if err := n.dropStamp(); err != nil {
		n.forget()
		return err
	}
	err := n.conn.Stream(c.additions())
	if t, ok := n.d.(tunneler); ok && (c.tunnelDevice || len(c.setTunnel)+len(c.delTunnel) > 0) {
		err = errors.Join(err, t.applyTunnel(ctx, n, c))
	}
	err = errors.Join(err, gone(n.conn.Stream(c.removals())))
	if err != nil {
		n.forget()
	}
	return err
}

// MTU implements [Network].
func (n *Node) MTU(p peer.Peer) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.Name == "" && len(p.Pods) == 0 {
		return n.mtu
	}
	if n.under == nil {
		return n.mtu
	}
	return n.pathMTU(&p)
}

// metric is where the routes to a range stand. IPv4 routes that differ in nothing but their next hop share one chain of
// the kernel's hash table, which makes 10 000 of them quadratic; a metric that depends on the range takes them apart. A
// range keeps its metric whoever has it, so that a route moves in one replacement. Plain routes stand before tunnels.
func (n *Node) metric(dst netip.Prefix, alone bool) uint32 {
	const spread = 1 << 14
	m := n.o.Metric + 1 + n.d.layer()*spread
	if alone {
		return m
	}
	h := uint32(2166136261) // FNV-1a
	b := dst.Addr().As16()
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return m + (h^h>>15)%spread
}

// inLayer reports whether a metric is one that this node's routes can have.
func (n *Node) inLayer(metric uint32) bool {
	const spread = 1 << 14
	first := n.o.Metric + 1 + n.d.layer()*spread
	return metric >= first && metric < first+spread
}

// source is the node's own address for a route to dst, which the overlay devices carry.
func (n *Node) source(dst netip.Prefix) netip.Addr { return n.src[b2i(dst.Addr().Is6())] }

// route is what all routes of this node have in common.
func (n *Node) route(dst netip.Prefix, link int) rtnl.Route {
	return rtnl.Route{Dst: dst, Link: link, Table: n.o.Table, Proto: Proto, Type: unicast, Metric: n.metric(dst, false)}
}

// pods are the ranges of a peer that are carried.
func (n *Node) pods(p *peer.Peer) []netip.Prefix {
	if len(n.o.Families) == 0 {
		return p.Pods
	}
	return slices.DeleteFunc(slices.Clone(p.Pods), func(r netip.Prefix) bool { return !n.o.carries(inet.FamilyOf(r.Addr())) })
}
