//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/internal/sources"
	"github.com/cniblocks/cniblocks/netns"
)

// RemoveAll removes everything of the network in the namespace: its SNAT in every backend and its forwarding. Where there
// is nothing, it asks the kernel and starts no program.
func RemoveAll(ctx context.Context, ns *netns.NS, network string) error {
	err := NFT{ns}.Remove(ctx, network)
	if nft.Missing(err) {
		err = nil
	}
	return errors.Join(err, IPTables{NS: ns}.Remove(ctx, network), forward.Passage{NS: ns}.Remove(ctx, network))
}

// Switch makes keep, of this package or not, the only backend of the network: what [NFT] and [IPTables] have in place goes over
// to it, so that no pod loses its SNAT, and is removed there. Where there is nothing, it asks the kernel and starts no program.
func Switch(ctx context.Context, ns *netns.NS, keep Backend, network string) error {
	if keep == nil {
		return fmt.Errorf("SNAT of network %q: it is not said which backend is to keep it", network)
	}
	for _, from := range []interface {
		Backend
		holds(network string) (bool, error)
	}{NFT{ns}, IPTables{NS: ns}} {
		if from.Name() == keep.Name() {
			continue
		}
		there, err := from.holds(network)
		if err == nil && there {
			err = move(ctx, network, from, keep)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func move(ctx context.Context, network string, from, to Backend) error {
	list, err := from.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.Of(network) {
			p.Network = network
			if err := to.Ensure(ctx, p); err != nil {
				return err
			}
		}
	}
	return from.Remove(ctx, network)
}

// holds asks in one write whether anything of the network is in place.
func (b NFT) holds(network string) (bool, error) {
	there, err := b.has(append(v4.sets(network).all(), v6.sets(network).all()...)...)
	if nft.Missing(err) {
		return false, nil
	}
	return there, b.fail(network, err)
}

// holds asks whether either packet filter has a chain of the network.
func (b IPTables) holds(network string) (bool, error) {
	there, err := b.mentions(mark.Chain(network))
	if err != nil {
		return false, fmt.Errorf("SNAT of network %q by iptables: %w", network, err)
	}
	return there, nil
}

// mentions asks whether a table nat has the chain.
func (b IPTables) mentions(chain string) (bool, error) {
	for _, f := range families {
		if there, err := natShape().Mentioned(b.NS, xtables.Family(f), chain); there || err != nil {
			return there, err
		}
	}
	return false, nil
}

// Conflicts says, one sentence each, which other network of ours in the namespace has addresses among these ranges, all
// that pods of the policy's network may have, and treats them otherwise than the policy does: the packets of one address
// cannot be masqueraded for one network and not for the other. A network without any SNAT is not seen. It is cheap as
// long as the network is the only one.
func Conflicts(ctx context.Context, ns *netns.NS, p Policy, ranges []inet.Range) ([]string, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	others, err := NFT{ns}.list(mark.Name(p.Network))
	if err != nil && !nft.Missing(err) {
		return nil, err
	}
	more, err := IPTables{NS: ns}.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range append(others, more...) {
		if !o.Of(p.Network) {
			out = append(out, conflicts(p, ranges, o)...)
		}
	}
	return out, nil
}

func conflicts(p Policy, ranges []inet.Range, o Policy) (out []string) {
	for _, f := range families {
		var own []inet.Range
		for _, r := range ranges {
			if f.has(r.Start) {
				own = append(own, r)
			}
		}
		ours, theirs := p.half(f), o.half(f)
		all := theirs.Ranges
		for a := range theirs.Pods {
			all = append(all, inet.Range{Start: a, End: a})
		}
		shared, ok := sources.NewRanges(own...).Overlap(sources.NewRanges(all...))
		switch {
		case !ok:
		case ours.Empty():
			out = append(out, fmt.Sprintf("networks %q and %q both have addresses of %s, and only %[2]q masquerades them: "+
				"set ipMasq alike, or give them different ranges", p.Network, o.Network, shared))
		case !slices.Equal(ours.Except, theirs.Except):
			out = append(out, fmt.Sprintf("networks %q and %q both have addresses of %s, and except different destinations from SNAT: "+
				"what one of them masquerades is masqueraded for both", p.Network, o.Network, shared))
		}
	}
	return out
}
