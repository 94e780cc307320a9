//go:build linux

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/internal/snat"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
)

// firewall lets packets of pods through: SNAT, the way past a FORWARD policy that drops. When all is in place
// it writes nothing.
func (r *runner) firewall(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // for the programs, which wait for each other
	defer cancel()
	if err := r.masquerade(ctx); err != nil {
		return err
	}
	if r.Adopt && !r.adopted {
		if err := r.clear(ctx); err != nil {
			return err
		}
		r.adopted = true
	}
	r.mended = true
	return nil
}

func (r *runner) masquerade(ctx context.Context) error {
	ranges := append(slices.Clone(r.self.Pods), r.former...)
	p := snat.Outward(r.Network, ranges, append(slices.Clone(r.allPrefixes()), r.SNAT.Except...), r.SNAT.Families)
	if !r.SNAT.Families.Any() {
		var pods []inet.Range
		for _, n := range append(ranges, r.allPrefixes()...) {
			pods = append(pods, inet.RangeOf(n))
		}
		f := masq.Forward{NS: r.NS}
		if r.stands(f.Check(ctx, r.Network, pods)) {
			return nil
		}
		return f.Ensure(ctx, r.Network, pods)
	}
	rule, err := snat.Open(ctx, r.NS, r.SNAT.Backend, p)
	if err != nil {
		return err
	}
	network := r.allPrefixes()
	rule.Pass = network
	smaller := r.named == nil || slices.ContainsFunc(r.named, func(n netip.Prefix) bool { return !slices.Contains(network, n) })
	r.shrink = r.shrink || smaller
	if r.stands(rule.Check(ctx, p)) && !r.shrink {
		r.named = append([]netip.Prefix{}, network...)
		return nil
	}
	changed, err := rule.Ensure(ctx, p)
	if changed && err == nil {
		r.st.firewalls.Add(1)
	}
	if err == nil && r.shrink {
		err = r.forgetRanges(ctx, rule, p)
	}
	if err == nil {
		r.shrink, r.named = false, append([]netip.Prefix{}, network...)
	}
	return err
}

// stands reports whether the firewall is as a look at it says. If it is not, the node is not ready until it is.
func (r *runner) stands(wrong error) bool {
	if wrong != nil && r.mended {
		r.st.set(troubleFirewall, fmt.Errorf("being put back: %w", wrong))
	}
	return wrong == nil && r.mended
}

// forgetRanges takes earlier ranges of this node out of the SNAT, and leaves the single addresses that plugins put there.
func (r *runner) forgetRanges(ctx context.Context, rule snat.Rule, p masq.Policy) error {
	b, err := masq.Open(ctx, r.NS, r.SNAT.Backend)
	if err != nil {
		return err
	}
	list, err := b.List(ctx)
	if err != nil {
		return err
	}
	var owners []string
	for _, have := range list {
		if have.Of(r.Network) {
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
	w, err := nft.OpenWatch(ns)
	if err != nil {
		return nil, err
	}
	return &nftMonitor{w}, nil
}

func (m *nftMonitor) close() {
	if m != nil {
		_ = m.Close()
	}
}

// askLegacy has the loop look at the firewall after a change of the legacy tables, which nobody announces.
func (r *runner) askLegacy() {
	at, err := xtables.Fingerprint(r.NS)
	if err != nil {
		r.log.Debug("the legacy tables cannot be read", "error", err)
		return
	}
	if at != r.legacy {
		r.due.firewall = r.due.firewall || r.mended
	}
	r.legacy = at
}

// watchNFT has the loop look at the firewall after a change, though not for each of many.
func (r *runner) watchNFT(ctx context.Context) {
	if r.nft == nil {
		return
	}
	for r.nft.Wait() == nil {
		r.post(ctx, func() { r.due.firewall = r.due.firewall || r.mended })
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
