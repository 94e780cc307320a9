//go:build linux

package agent

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// carrier is a tunnel of the network at work.
type carrier struct {
	Tunnel
	*overlay.Node
	devices []string
	refused []string
}

// carriers are the overlay networks that this node is in. What the monitor's goroutine reads too is atomic.
type carriers struct {
	*core
	mon     *rtnl.Monitor
	all     atomic.Pointer[[]*carrier]
	state   atomic.Uint32 // carriersState
	refused []string      // peers that are left out, and why, as was told last
}

// carriersState is whether the networks are those of what this node is now.
type carriersState = uint32

const (
	unbuilt carriersState = iota // they are not: whatever changes on the node may let them be made
	built                        // devices stand
)

func newCarriers(c *core, mon *rtnl.Monitor) *carriers {
	n := &carriers{core: c, mon: mon}
	n.all.Store(&[]*carrier{})
	return n
}

// each yields the networks.
func (n *carriers) each() []*carrier { return *n.all.Load() }

// build makes the networks for what this node is now, and their devices. It returns how the node is reached then.
func (n *carriers) build(ctx context.Context) (reach peer.Reach, err error) {
	defer func() {
		if err != nil {
			n.state.Store(unbuilt)
		}
	}()
	var nets []*carrier
	prefixes := n.allPrefixes()
	for _, t := range n.layout.Tunnels {
		encap := t.Config
		encap.Bridge, encap.DataDir = t.Bridge, n.DataDir
		e, err := encap.Encapsulation()
		if err != nil {
			return reach, err
		}
		net, err := overlay.New(overlay.Options{
			NS: n.NS, Network: n.Network, Node: *n.self, Prefixes: of(prefixes, t.Families), Families: t.Families, Underlay: t.Underlay,
			Table: t.Table, Metric: t.Metric, MTU: t.MTU, Device: t.Device, StateDir: n.StateDir, Adopt: n.Adopt,
		}, e)
		if err != nil {
			return reach, err
		}
		nets = append(nets, &carrier{Tunnel: t, Node: net})
	}
	if reach, err = n.ensureAll(ctx, nets); err != nil {
		return reach, err
	}
	n.all.Store(&nets)
	n.state.Store(built)
	n.follow()
	if reach != n.self.Reach {
		n.self.Reach, n.saved.dirty = reach, true
	}
	return reach, nil
}

// ensureAll makes the devices and returns how the node is reached, each underlay as its tunnel says.
func (n *carriers) ensureAll(ctx context.Context, nets []*carrier) (reach peer.Reach, err error) {
	for _, c := range nets {
		if err := n.bridge(ctx, c); err != nil {
			return reach, err
		}
		own, err := c.Ensure(ctx)
		if err != nil {
			return reach, err
		}
		c.devices = own.Devices
		reach.Encap = own.Encap
		if c.Underlay != inet.IPv6 {
			reach.V4 = own.V4
		}
		if c.Underlay != inet.IPv4 {
			reach.V6 = own.V6
		}
	}
	return reach, nil
}

// bridge makes the bridge that an L2 tunnel is a port of; plugins make it too, whoever is first.
func (n *carriers) bridge(ctx context.Context, c *carrier) error {
	if !c.L2 {
		return nil
	}
	_, err := bridge.Ensure(ctx, n.NS, bridge.Bridge{Name: c.Tunnel.Bridge, Alias: link.NetworkAlias(n.Network)})
	return err
}

// setAll applies the list, if there is one.
func (n *carriers) setAll(ctx context.Context) error {
	if n.list == nil {
		return nil
	}
	begin := time.Now()
	peers, rejected := n.peers()
	err := n.forEach(rejected, func(c *carrier) error { return c.Set(ctx, peers) })
	if err == nil {
		n.phase = max(n.phase, applied)
		n.st.applied(len(n.list), time.Since(begin))
	}
	n.follow()
	return err
}

func (n *carriers) repairAll(ctx context.Context, why string, anew bool) error {
	begin := time.Now()
	peers, rejected := n.peers()
	err := n.forEach(rejected, func(c *carrier) error {
		if err := n.bridge(ctx, c); err != nil {
			return err
		}
		if anew {
			c.Want(peers)
		}
		return c.Repair(ctx)
	})
	n.follow()
	n.st.repaired(why, time.Since(begin))
	if err == nil && n.list != nil {
		n.phase = max(n.phase, applied)
		n.st.applied(len(n.list), 0)
	}
	n.log.Debug("compared with the kernel", "because", why, "took", time.Since(begin))
	return err
}

// forEach calls f for every tunnel. Refused peers are no error: they are counted and told.
func (n *carriers) forEach(rejected []string, f func(*carrier) error) error {
	var errs []error
	for _, c := range n.each() {
		err := f(c)
		refused := overlay.OnlyRefused(err)
		if err != nil && refused == nil {
			errs = append(errs, err)
			continue
		}
		var said []string
		for _, p := range refused {
			said = append(said, p.Error())
		}
		c.refused = said
	}
	n.tellRefused(rejected)
	return errors.Join(errs...)
}

// follow has the monitor tell of entries on the devices as they are numbered now.
func (n *carriers) follow() {
	var links []int
	for _, c := range n.each() {
		links = append(links, c.Links()...)
	}
	if err := n.mon.Follow(links...); err != nil {
		n.log.Error("neighbour and FDB entries are not watched", "error", err)
	}
}

// tellRefused puts the peers that are left out into the status.
func (n *carriers) tellRefused(rejected []string) {
	refused := slices.Clone(rejected)
	for _, c := range n.each() {
		refused = append(refused, c.refused...)
	}
	n.news(n.refused, refused, "a peer is left out", "a peer is no longer left out")
	n.refused = refused
	n.st.with(func() { n.st.s.Refused = refused[:min(len(refused), mostTold)] })
}

// relevant asks the networks, and looks for a change of this node's own addresses.
func (n *carriers) relevant(e *rtnl.Event) bool {
	for _, c := range n.each() {
		if c.Relevant(e) {
			return true
		}
	}
	if n.state.Load() == built {
		return false
	}
	switch e.Subject { // what may let them be made
	case rtnl.AddrEvent:
		return true
	case rtnl.LinkEvent:
		return e.Link.Tunnel() == nil
	case rtnl.RouteEvent:
		return e.Route.Proto != overlay.Proto && e.Route.Type == unix.RTN_UNICAST
	}
	return false
}

// harms reports whether it was something of ours that another program changed, and not the underlay.
func (n *carriers) harms(e *rtnl.Event) bool {
	switch e.Subject {
	case rtnl.LinkEvent:
		return slices.ContainsFunc(n.each(), func(c *carrier) bool {
			return c.Owns(e.Link.Index) || c.Tunnel.Bridge != "" && c.Tunnel.Bridge == e.Link.Name
		})
	case rtnl.AddrEvent:
		return slices.ContainsFunc(n.each(), func(c *carrier) bool { return c.Owns(e.Addr.Link) })
	case rtnl.RouteEvent:
		return e.Route.Proto == overlay.Proto
	}
	return e.Subject == rtnl.NeighEvent || e.Subject == rtnl.FDBEvent
}

// mtu is what pods may send to whomever, in bytes; 0 is not known.
func (n *carriers) mtu() int {
	least := 0
	for _, c := range n.each() {
		if m := c.Node.MTU(peer.Peer{}); m != 0 && (least == 0 || m < least) {
			least = m
		}
	}
	return least
}
