//go:build linux

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
)

// firewall lets packets of pods through: SNAT, the way past a FORWARD policy that drops.
type firewall struct {
	*core
	state  firewallState
	named  []netip.Prefix // of the network, which it has been brought in step with
	legacy uint64         // what xtables.Fingerprint said last
	nft    *nftMonitor
}

// firewallState is how the firewall relates to what it is to be.
type firewallState uint8

const (
	closed firewallState = iota // it was never put in place; a takeover has not ended
	wide                        // it is in place, and names ranges that are this node's or the network's no more
	open                        // it is in place, and names no others
)

func newFirewall(c *core) *firewall {
	w := &firewall{core: c}
	var err error
	if w.nft, err = openNFT(c.NS); err != nil {
		c.log.Debug("nftables is not watched", "error", err)
	}
	if w.legacy, err = xtables.Fingerprint(c.NS); err != nil {
		c.log.Debug("the legacy tables cannot be read", "error", err)
	}
	return w
}

// shrink has the firewall forget ranges when it is put in place next.
func (w *firewall) shrink() { w.state = min(w.state, wide) }

// changed has the loop look at the firewall, once it has been in place.
func (w *firewall) changed() { w.due.firewall = w.due.firewall || w.state != closed }

// ensure puts the firewall in place. When all is there it writes nothing.
func (w *firewall) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // for the programs, which wait for each other
	defer cancel()
	if err := w.masquerade(ctx); err != nil {
		return err
	}
	if w.Adopt && w.state == closed {
		if err := w.takeOver(ctx); err != nil {
			return err
		}
	}
	w.state = open
	return nil
}

func (w *firewall) masquerade(ctx context.Context) error {
	ranges := append(slices.Clone(w.self.Pods), w.former...)
	p := attach.Outward(w.Network, ranges, append(slices.Clone(w.allPrefixes()), w.SNAT.Except...), w.SNAT.Families)
	if !w.SNAT.Families.Any() {
		var pods []inet.Range
		for _, n := range append(ranges, w.allPrefixes()...) {
			pods = append(pods, inet.RangeOf(n))
		}
		f := forward.Passage{NS: w.NS}
		if w.stands(f.Check(ctx, w.Network, pods)) {
			return nil
		}
		return f.Ensure(ctx, w.Network, pods)
	}
	rule, err := attach.OpenRule(ctx, w.NS, w.SNAT.Backend, p)
	if err != nil {
		return err
	}
	network := w.allPrefixes()
	rule.Pass = network
	if slices.ContainsFunc(w.named, func(n netip.Prefix) bool { return !slices.Contains(network, n) }) {
		w.shrink()
	}
	if w.stands(rule.Check(ctx, p)) && w.state == open {
		w.named = slices.Clone(network)
		return nil
	}
	changed, err := rule.Ensure(ctx, p)
	if changed && err == nil {
		w.st.firewalls.Add(1)
	}
	if err == nil && w.state != open {
		err = w.forgetRanges(ctx, rule, p)
	}
	if err == nil {
		w.named = slices.Clone(network)
	}
	return err
}

// stands reports whether the firewall is as a look at it says. If it is not, the node is not ready until it is.
func (w *firewall) stands(wrong error) bool {
	if wrong != nil && w.state != closed {
		w.st.set(troubleFirewall, fmt.Errorf("being put back: %w", wrong))
	}
	return wrong == nil && w.state != closed
}

// forgetRanges takes earlier ranges of this node out of the SNAT, and leaves the single addresses that plugins put there.
func (w *firewall) forgetRanges(ctx context.Context, rule attach.Rule, p masq.Policy) error {
	b, err := masq.Open(ctx, w.NS, w.SNAT.Backend)
	if err != nil {
		return err
	}
	list, err := b.List(ctx)
	if err != nil {
		return err
	}
	var owners []string
	for _, have := range list {
		if have.Of(w.Network) {
			for _, pod := range have.Pods {
				owners = append(owners, pod.Owner)
			}
		}
	}
	return rule.Retain(ctx, p, owners)
}

// nftMonitor tells that nftables have changed, by whomever.
type nftMonitor struct{ *nft.Watch }

func openNFT(ns *netns.NS) (*nftMonitor, error) {
	n, err := nft.OpenWatch(ns)
	if err != nil {
		return nil, err
	}
	return &nftMonitor{n}, nil
}

func (m *nftMonitor) close() {
	if m != nil {
		_ = m.Close()
	}
}

// askLegacy has the loop look at the firewall after a change of the legacy tables, which nobody announces.
func (w *firewall) askLegacy() {
	at, err := xtables.Fingerprint(w.NS)
	if err != nil {
		w.log.Debug("the legacy tables cannot be read", "error", err)
		return
	}
	if at != w.legacy {
		w.changed()
	}
	w.legacy = at
}

// watchNFT has the loop look at the firewall after a change, though not for each of many.
func (w *firewall) watchNFT(ctx context.Context) {
	if w.nft == nil {
		return
	}
	for w.nft.Wait() == nil {
		w.post(ctx, w.changed)
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// takeOver ends a takeover, when ours is in place: the bridge of the pods gets our marks, and flannel's firewall rules go.
func (w *firewall) takeOver(ctx context.Context) error {
	links, err := w.conn.Links("bridge")
	if err != nil {
		return err
	}
	addrs, err := w.conn.Addrs(0)
	if err != nil {
		return err
	}
	for _, l := range links {
		mine := slices.ContainsFunc(addrs, func(a rtnl.Addr) bool {
			return a.Link == l.Index && slices.ContainsFunc(w.self.Pods, func(p netip.Prefix) bool { return p.Contains(a.Prefix.Addr()) })
		})
		if !mine || l.Alias != "" {
			continue
		}
		w.log.Info("a bridge is taken over", "bridge", l.Name)
		if err := w.conn.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Alias: link.NetworkAlias(w.Network), Group: bridge.Group})); err != nil {
			return err
		}
	}
	return foreign.RemoveFlannel(ctx, w.NS)
}
