//go:build linux

// Package chains keeps rules of ours in tables of iptables(8), a chain for each network, in either packet filter: in the tables
// of iptables-nft over netlink, read and written as that program does, and by the programs.
package chains

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// Layout is where our rules are in a table: the base chain jumps to the trunk, which jumps to the chain of each network, which
// holds the rules.
type Layout struct {
	Table, Base, Trunk string
	First              bool // the jump belongs before all other rules of the base chain
}

// The tables that we have rules in.
var (
	NAT     = Layout{Table: "nat", Base: "POSTROUTING", Trunk: mark.Postrouting}
	Forward = Layout{Table: "filter", Base: "FORWARD", Trunk: mark.Forward, First: true}
)

// AskForward asks for the chains FORWARD of iptables-nft; [ForwardDrops] reads the answers.
func AskForward() []nft.Request {
	return []nft.Request{nft.GetChain(table(4, Forward.Table), Forward.Base), nft.GetChain(table(6, Forward.Table), Forward.Base)}
}

// ForwardDrops reports for which families the policy of these chains is to drop.
func ForwardDrops(answers []nft.Answer) (v4, v6 bool, err error) {
	drops := func(a nft.Answer, family uint8) (found bool) {
		if a.Err != nil && !errors.Is(a.Err, fs.ErrNotExist) && !nft.Missing(a.Err) {
			err = a.Err
		}
		for _, c := range a.Chains(family) {
			found = c.Hook.Type == "filter" && c.Hook.Num == nft.Forward && c.Policy == nft.Drop
		}
		return found
	}
	v4, v6 = drops(answers[0], nft.IPv4), drops(answers[1], nft.IPv6)
	return v4, v6, err
}

// Store reads and writes a layout in one of the kernel's packet filters.
type Store interface {
	Read(ctx context.Context, network string) (State, error)
	// Apply makes of the rules in place what change makes of them; what change has made it must leave as it is. No rules remove
	// the network, and with the last one the trunk.
	Apply(ctx context.Context, network string, change func(have []xtables.Match) []xtables.Match) error
	// All returns the rules of every network, by its name in comments.
	All(ctx context.Context) ([]Network, error)
}

// Network is what a table holds of a network.
type Network struct {
	Name  string // see [mark.Name]
	Rules []xtables.Match
}

// State is what a table holds of a network, and how it is reached.
type State struct {
	Exists bool // the network's chain is there
	Rules  []xtables.Match

	trunk  bool // our trunk is there
	jumps  int  // from the base chain to the trunk
	links  int  // from the trunk to the network's chain
	others int  // the trunk's other rules
}

// Any reports whether there is anything of the network.
func (s State) Any() bool { return s.Exists || s.links > 0 }

// Faults says what keeps packets from a network's rules, or sends them there twice.
func (l Layout) Faults(network string, s State) (wrong []string) {
	name := mark.Chain(network)
	if !s.Exists {
		return []string{fmt.Sprintf("chain %s of table %s is missing", name, l.Table)}
	}
	if s.jumps != 1 {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 in chain %s jump to %s", s.jumps, l.Base, l.Trunk))
	}
	if s.links != 1 {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 in chain %s jump to %s", s.links, l.Trunk, name))
	}
	return wrong
}

// right reports whether the table holds exactly that.
func (s State) right(want []xtables.Match) bool {
	if len(want) == 0 {
		return !s.Any()
	}
	return s.Exists && s.jumps == 1 && s.links == 1 && slices.Equal(s.Rules, want)
}

// NFT is the store in the table of iptables-nft. Where the kernel has no nftables its methods return what [nft.Missing] knows.
func (l Layout) NFT(ns *netns.NS, f xtables.Family) Store { return inNFT{l, ns, table(f, l.Table)} }

func table(f xtables.Family, name string) nft.Table {
	if f == 6 {
		return nft.Table{Family: nft.IPv6, Name: name}
	}
	return nft.Table{Family: nft.IPv4, Name: name}
}

// By is the store that the programs keep, in whichever packet filter that is.
func (l Layout) By(ns *netns.NS, p xtables.Programs) Store { return byProgram{l, ns, p} }

// Legacy is the store in the legacy table if that mentions a name, which it says without any program.
func (l Layout) Legacy(ctx context.Context, ns *netns.NS, f xtables.Family, name string) (Store, bool, error) {
	p, there, err := xtables.FindMentioned(ctx, ns, f, l.Table, name)
	return l.By(ns, p), there, err
}

// Mentioned asks both packet filters, without any program, whether the table has a chain.
func (l Layout) Mentioned(ns *netns.NS, f xtables.Family, chain string) (bool, error) {
	c, err := nft.Open(ns)
	if err == nil {
		_, err = c.Chain(table(f, l.Table), chain)
	}
	if err == nil {
		return true, nil
	}
	if !nft.Missing(err) && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	legacy, err := xtables.ReadLegacy(ns, f, l.Table)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && legacy.Mentions(chain), err
}

// Each applies a change to the network wherever there is anything of it, in either packet filter.
func (l Layout) Each(ctx context.Context, ns *netns.NS, f xtables.Family, network string, change func(have []xtables.Match) []xtables.Match) error {
	store := l.NFT(ns, f)
	s, err := store.Read(ctx, network)
	if nft.Missing(err) {
		err = nil
	}
	errs := []error{err}
	if s.Any() {
		errs = append(errs, store.Apply(ctx, network, change))
	}
	store, there, err := l.Legacy(ctx, ns, f, mark.Chain(network))
	if there {
		err = store.Apply(ctx, network, change)
	}
	return errors.Join(append(errs, err)...)
}
