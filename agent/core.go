//go:build linux

package agent

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// core is what the parts of an agent share. One goroutine, that of the loop, owns it.
type core struct {
	*Agent
	log   *slog.Logger
	conn  *rtnl.Conn
	inbox chan func()
	known
	saved savedState
	due   due
	clock clock
	phase phase
}

// known is what the agent has learned of the network, and of this node.
type known struct {
	layout   *Layout
	self     *peer.Peer // this node, with what it published
	stated   peer.Peer  // this node as the last list has it, without a Registrar
	former   []netip.Prefix
	list     []peer.Peer // the last good one; nil before the first
	prefixes []netip.Prefix
	at       found // its addresses on the underlay, with a Registrar
}

// phase is how far the agent has come. It never goes back.
type phase uint8

const (
	starting phase = iota // no list was applied: files on the node are those of an earlier agent
	applied               // one was: the files say what this node is
	complete              // devices, firewall and files have been right once
)

// due is what has to be done.
type due struct {
	endpoints, build, set, repair, firewall, look bool
	why                                           string // of the repair
}

// all makes everything due.
func (d *due) all(why string) {
	d.repair, d.firewall, d.endpoints = true, true, true
	if d.why == "" {
		d.why = why
	}
}

// keep adds to what is due.
func (d *due) keep(more due) {
	d.build, d.set, d.firewall = d.build || more.build, d.set || more.set, d.firewall || more.firewall
}

// post has the loop call f; it gives up when ctx is done.
func (c *core) post(ctx context.Context, f func()) {
	select {
	case c.inbox <- f:
	case <-ctx.Done():
	}
}

// findSelf looks for this node in a list that states its ranges. One that was found by its address is the peer of that name
// for as long as the address is gone.
func (c *core) findSelf() {
	host, _ := os.Hostname()
	self, err := peer.Self(c.list, c.Name, c.addresses(), host)
	if err != nil && c.Name == "" && c.stated.Name != "" {
		if same, gone := peer.Self(c.list, c.stated.Name, nil, ""); gone == nil {
			self, err = same, nil
		}
	}
	if c.st.set(troubleSelf, err); err != nil || c.self != nil && c.stated.Equal(self) {
		return
	}
	c.stated = self
	c.become(self)
}

// become makes this node another one than before: its first self, new ranges, new addresses.
func (c *core) become(self peer.Peer) {
	if c.self != nil && c.self.Equal(self) {
		return
	}
	if c.self != nil {
		for _, old := range c.self.Pods {
			if !slices.Contains(self.Pods, old) && !slices.Contains(c.former, old) {
				c.former = append(c.former, old)
				c.log.Warn("this node has another range; pods that have addresses of the old one keep them", "old", old, "new", self.Pods)
			}
		}
	}
	c.former = slices.DeleteFunc(c.former, func(f netip.Prefix) bool { return slices.Contains(self.Pods, f) })
	c.self = &self
	c.saved.dirty, c.due.build, c.due.firewall = true, true, true
}

// addresses yields those of the node, for [peer.Self].
func (c *core) addresses() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		addrs, err := c.conn.Addrs(0)
		if err != nil {
			return
		}
		for _, a := range addrs {
			if ip := a.Prefix.Addr(); !ip.IsLoopback() && !yield(ip) {
				return
			}
		}
	}
}

// steady keeps an address that still is one of the node's where there is a choice, so that a second one on the same link
// changes nothing.
func (c *core) steady(at found) found {
	if c.Endpoints.Interface == nil && c.Endpoints.dynamic() && len(c.Endpoints.CanReach) > 0 || !c.Endpoints.dynamic() {
		return at
	}
	addrs, err := c.conn.Addrs(0)
	if err != nil {
		return at
	}
	linkOf := func(ip netip.Addr) int {
		for _, a := range addrs {
			if a.Prefix.Addr() == ip && usable(a) {
				return a.Link
			}
		}
		return 0
	}
	for i, old := range c.at {
		if l := linkOf(old); old.IsValid() && l != 0 && l == linkOf(at[i]) {
			at[i] = old
		}
	}
	return at
}

// miss fails if this node had an address that its tunnels need, and has none of that family now: it may come back.
func (c *core) miss(at found) error {
	if c.layout == nil {
		return nil
	}
	for i, f := range inet.Families {
		gone := c.at[i].IsValid() && !at[i].IsValid()
		if gone && slices.ContainsFunc(c.layout.Tunnels, func(t Tunnel) bool { return c.runsOver(t, f) }) {
			return fmt.Errorf("this node has lost its %s address, %s, and the network's tunnels run over it: give it one", f, c.at[i])
		}
	}
	return nil
}

// placed is the node with its addresses as they are now.
func (k *known) placed(p peer.Peer) peer.Peer {
	if k.at != (found{}) {
		p.V4.Addr, p.V6.Addr = k.at[0], k.at[1]
	}
	return p
}

// isPod reports whether an address is one of the pods' network, which no node has on its underlay.
func (k *known) isPod(a netip.Addr) bool {
	return k.layout != nil && slices.ContainsFunc(k.layout.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// runsOver reports whether the packets of a tunnel's pods need an address of the family, of which this node had one.
func (k *known) runsOver(t Tunnel, f inet.Family) bool {
	switch {
	case t.Underlay != 0:
		return t.Underlay == f
	case t.Encap == "host-gw":
		return k.self != nil && len(k.self.PodsOf(f)) > 0
	}
	return f == inet.IPv4 || !k.at[0].IsValid()
}

// mine reports whether a peer is at this node's addresses.
func (k *known) mine(p *peer.Peer) bool {
	return p.V4.Addr == k.self.V4.Addr && p.V4.Addr.IsValid() || p.V6.Addr == k.self.V6.Addr && p.V6.Addr.IsValid()
}

// allPrefixes are those of the network: as laid out, as the source states them, or, where neither does, all ranges.
func (k *known) allPrefixes() []netip.Prefix {
	switch {
	case len(k.layout.Prefixes) > 0:
		return k.layout.Prefixes
	case len(k.prefixes) > 0:
		return k.prefixes
	}
	var all []netip.Prefix
	for _, p := range k.list {
		all = append(all, p.Pods...)
	}
	if len(all) > peer.MaxPrefixes {
		return k.self.Pods
	}
	return all
}

func (k *known) has(f inet.Family) bool { return len(k.self.PodsOf(f)) > 0 }

// peers are those of the list that can be served; this node may be among them under its own name. Left out are those who
// claim this node's ranges, which would lead its own pods' packets away, and those who speak another encapsulation.
func (k *known) peers() (list []peer.Peer, rejected []string) {
	out := map[int]bool{}
	for i := range k.list {
		p := &k.list[i]
		if p.Name == k.self.Name {
			continue
		}
		if k.mine(p) {
			out[i] = true // a store without names has not learned ours yet
		} else if err := k.unfit(p); err != nil {
			out[i], rejected = true, append(rejected, err.Error())
		}
	}
	if len(out) == 0 {
		return k.list, nil
	}
	rest := make([]peer.Peer, 0, len(k.list))
	for i, p := range k.list {
		if !out[i] {
			rest = append(rest, p)
		}
	}
	return rest, rejected
}

// unfit says why a peer cannot be served.
func (k *known) unfit(p *peer.Peer) error {
	switch encap := k.layout.Tunnels[0].Encap; {
	case overlaps(p.Pods, k.self.Pods):
		return fmt.Errorf("peer %q: its ranges %s overlap this node's, %s: give every node ranges of its own", p.Name, listed(p.Pods), listed(k.self.Pods))
	case p.Encap != "" && p.Encap != encap:
		return fmt.Errorf("peer %q: it speaks %s, and this node %s: configure both alike", p.Name, p.Encap, encap)
	}
	return nil
}

// listed is a list for people.
func listed[T fmt.Stringer](all []T) string {
	var words []string
	for _, v := range all {
		words = append(words, v.String())
	}
	return strings.Join(words, ", ")
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

// of are the prefixes of some families; none are all.
func of(prefixes []netip.Prefix, families []inet.Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool {
		return len(families) > 0 && !slices.Contains(families, inet.FamilyOf(p.Addr()))
	})
}

func (l *Layout) equal(m Layout) bool { return fmt.Sprint(*l) == fmt.Sprint(m) }
