//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// work does what is due, and plans another try where it fails.
func (r *runner) work(ctx context.Context) {
	d := r.due
	r.due = due{}
	if d.repair = d.repair || d.look; d.repair { // one that was planned answers announcements too
		d.why = r.st.takeCause(d.why)
	}
	if d.endpoints || d.repair {
		r.locate()
		d.build, d.firewall = d.build || r.due.build, d.firewall || r.due.firewall
		r.due = due{}
	}
	if r.layout == nil || r.self == nil {
		r.keep(due{set: d.set, firewall: d.firewall, build: true})
		return
	}
	r.carry(ctx, d)
	if !d.repair && !d.build || r.waits || ctx.Err() != nil {
		return
	}
	// An address that came after the first look and before the kernel was read is no news to the networks when it is announced.
	was := r.at
	if r.locate(); r.at != was {
		r.work(ctx)
	}
}

// keep adds to what is due.
func (r *runner) keep(d due) {
	r.due.build, r.due.set, r.due.firewall = r.due.build || d.build, r.due.set || d.set, r.due.firewall || d.firewall
}

// carry brings the kernel and the files in step.
func (r *runner) carry(ctx context.Context, d due) {
	var err error
	switch {
	case d.build || len(*r.nets.Load()) == 0:
		if err := r.formerGateways(ctx); err != nil {
			r.log.Warn("gateways of ranges that are not this node's any more", "error", err)
		}
		if err = r.build(ctx); err != nil {
			r.keep(due{build: true})
		} else {
			err = r.setAll(ctx)
		}
	case d.set && !d.repair:
		err = r.setAll(ctx)
	case d.repair:
		_ = r.keepUp(ctx) // an address, say, is refused where IPv6 is off
		if d.set {
			peers := r.peers()
			for _, c := range *r.nets.Load() {
				c.Want(peers)
			}
		}
		err = r.repairAll(ctx, d.why)
	}
	if ctx.Err() != nil {
		return
	}
	r.st.set(troubleNetwork, err)
	r.st.healed()
	if d.build || d.repair || d.firewall || !r.mended {
		err = errors.Join(err, r.keepUp(ctx)) // of new devices too
	}
	if err == nil && (d.firewall || !r.mended) {
		err = r.firewall(ctx)
		if ctx.Err() != nil {
			return
		}
		r.st.set(troubleFirewall, err)
	}
	if filed := r.files(); filed != nil || err == nil {
		r.st.set(troubleFiles, filed)
		err = errors.Join(err, filed)
	}
	r.after(err, d)
}

// after plans a second try of what failed.
func (r *runner) after(err error, d due) {
	if err == nil {
		r.backoff = 0
		if !r.planned {
			r.retry.Stop()
		}
		return
	}
	r.keep(due{set: d.set})
	r.backoff = min(max(2*r.backoff, 200*time.Millisecond), 30*time.Second)
	r.log.Error("the node is not as it should be", "error", err, "again in", r.backoff)
	if !r.planned {
		r.retry.Reset(r.backoff)
	}
	r.waits = true
}

// carrier is a tunnel of the network at work.
type carrier struct {
	Tunnel
	*overlay.Node
	devices []string
	refused []string
}

// build makes the networks for what this node is now, and their devices. It publishes how the node is reached then.
func (r *runner) build(ctx context.Context) (err error) {
	defer func() { r.unbuilt.Store(err != nil) }()
	var nets []*carrier
	prefixes := r.allPrefixes()
	for _, t := range r.layout.Tunnels {
		encap := t.Config
		encap.Bridge, encap.DataDir = t.Bridge, r.DataDir
		e, err := encap.Encapsulation()
		if err != nil {
			return err
		}
		n, err := overlay.New(overlay.Options{
			NS: r.NS, Network: r.Network, Node: *r.self, Prefixes: of(prefixes, t.Families), Families: t.Families, Underlay: t.Underlay,
			Table: t.Table, Metric: t.Metric, MTU: t.MTU, Device: t.Device, StateDir: r.StateDir, Adopt: r.Adopt,
		}, e)
		if err != nil {
			return err
		}
		nets = append(nets, &carrier{Tunnel: t, Node: n})
	}
	reach, err := r.ensureAll(ctx, nets)
	if err != nil {
		return err
	}
	r.nets.Store(&nets)
	r.follow()
	if reach != r.self.Reach {
		r.self.Reach, r.saved.dirty = reach, true
	}
	if r.clerk != nil && r.held {
		r.clerk.publish(reach)
	}
	return nil
}

// ensureAll makes the devices and returns how the node is reached, each underlay as its tunnel says.
func (r *runner) ensureAll(ctx context.Context, nets []*carrier) (reach peer.Reach, err error) {
	for _, c := range nets {
		if err := r.bridge(ctx, c); err != nil {
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

// setAll applies the list, if there is one.
func (r *runner) setAll(ctx context.Context) error {
	if r.list == nil {
		return nil
	}
	begin := time.Now()
	peers := r.peers()
	err := r.each(func(c *carrier) error { return c.Set(ctx, peers) })
	if err == nil {
		r.set = true
		r.st.applied(len(r.list), time.Since(begin))
	}
	r.follow()
	return err
}

func (r *runner) repairAll(ctx context.Context, why string) error {
	begin := time.Now()
	err := r.each(func(c *carrier) error {
		if err := r.bridge(ctx, c); err != nil {
			return err
		}
		return c.Repair(ctx)
	})
	r.follow()
	r.st.repaired(why, time.Since(begin))
	if err == nil && r.list != nil {
		r.set = true
		r.st.applied(len(r.list), 0)
	}
	r.log.Debug("compared with the kernel", "because", why, "took", time.Since(begin))
	return err
}

// each calls f for every tunnel. Refused peers are no error: they are counted and told.
func (r *runner) each(f func(*carrier) error) error {
	var errs []error
	for _, c := range *r.nets.Load() {
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
	r.tellRefused()
	return errors.Join(errs...)
}

// follow has the monitor tell of entries on the devices as they are numbered now.
func (r *runner) follow() {
	var links []int
	for _, c := range *r.nets.Load() {
		links = append(links, c.Links()...)
	}
	if err := r.mon.Follow(links...); err != nil {
		r.log.Error("neighbour and FDB entries are not watched", "error", err)
	}
}

// peers are those of the list that can be served; this node may be among them under its own name. Left out are those who
// claim this node's ranges, which would lead its own pods' packets away, and those who speak another encapsulation.
func (r *runner) peers() []peer.Peer {
	out := map[int]bool{}
	r.odd = nil
	for i := range r.list {
		p := &r.list[i]
		if p.Name == r.self.Name {
			continue
		}
		if r.mine(p) {
			out[i] = true // a store without names has not learned ours yet
		} else if err := r.unfit(p); err != nil {
			out[i], r.odd = true, append(r.odd, err.Error())
		}
	}
	if len(out) == 0 {
		return r.list
	}
	rest := make([]peer.Peer, 0, len(r.list))
	for i, p := range r.list {
		if !out[i] {
			rest = append(rest, p)
		}
	}
	return rest
}

// unfit says why a peer cannot be served.
func (r *runner) unfit(p *peer.Peer) error {
	switch encap := r.layout.Tunnels[0].Encap; {
	case overlaps(p.Pods, r.self.Pods):
		return fmt.Errorf("peer %q: its ranges %s overlap this node's, %s: give every node ranges of its own", p.Name, p.Pods, r.self.Pods)
	case p.Encap != "" && p.Encap != encap:
		return fmt.Errorf("peer %q: it speaks %s, and this node %s: configure both alike", p.Name, p.Encap, encap)
	}
	return nil
}

// mine reports whether a peer is at this node's addresses.
func (r *runner) mine(p *peer.Peer) bool {
	return p.V4.Addr == r.self.V4.Addr && p.V4.Addr.IsValid() || p.V6.Addr == r.self.V6.Addr && p.V6.Addr.IsValid()
}

func overlaps(a, b []netip.Prefix) bool {
	for _, p := range a {
		for _, q := range b {
			if p.Overlaps(q) {
				return true
			}
		}
	}
	return false
}

// allPrefixes are those of the network: as laid out, as the source states them, or, where neither does, all ranges.
func (r *runner) allPrefixes() []netip.Prefix {
	switch {
	case len(r.layout.Prefixes) > 0:
		return r.layout.Prefixes
	case len(r.prefixes) > 0:
		return r.prefixes
	}
	var all []netip.Prefix
	for _, p := range r.list {
		all = append(all, p.Pods...)
	}
	if len(all) > peer.MaxPrefixes {
		return r.self.Pods
	}
	return all
}

// of are the prefixes of some families; none are all.
func of(prefixes []netip.Prefix, families []inet.Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool {
		return len(families) > 0 && !slices.Contains(families, inet.FamilyOf(p.Addr()))
	})
}

func (l *Layout) equal(m Layout) bool { return fmt.Sprint(*l) == fmt.Sprint(m) }
