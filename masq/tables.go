//go:build linux

package masq

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/xtables"
)

// shape is how this package uses a table of iptables: the base chain jumps to our trunk, which jumps to a chain for each
// network, which holds the rules.
type shape struct {
	table, base, trunk string
	first              bool // the jump belongs before all other rules of the base chain
	write              func(network string, h half) []xtables.Match
	read               func(network string, rules []xtables.Match) half
}

func natShape() shape {
	return shape{table: "nat", base: "POSTROUTING", trunk: postChain, write: writeNAT, read: readNAT}
}

func filterShape() shape {
	return shape{table: "filter", base: "FORWARD", trunk: forwChain, first: true, write: writeFilter, read: readFilter}
}

func writeNAT(network string, h half) (rules []xtables.Match) {
	comment := commentFor(network)
	for _, r := range h.except {
		rules = append(rules, xtables.Match{Dst: r.pair(), Comment: comment, Target: "RETURN"})
	}
	for _, r := range h.sources {
		rules = append(rules, xtables.Match{Src: r.pair(), Comment: comment, Target: "MASQUERADE"})
	}
	for _, group := range fromPods(h.pods) {
		a, _ := netip.AddrFromSlice([]byte(group[0].Key))
		rules = append(rules, xtables.Match{Src: [2]netip.Addr{a, a}, Comment: comment + podWord + h.pods[a], Target: "MASQUERADE"})
	}
	return rules
}

const podWord = " pod "

func (r Range) pair() [2]netip.Addr { return [2]netip.Addr{r.Start, r.End} }

func readNAT(network string, rules []xtables.Match) half {
	h := half{pods: map[netip.Addr]string{}}
	for _, r := range rules {
		owner, isPod := strings.CutPrefix(r.Comment, commentFor(network)+podWord)
		switch {
		case isPod && r.Src[0].IsValid():
			h.pods[r.Src[0]] = owner
		case r.Src[0].IsValid():
			h.sources = append(h.sources, Range{r.Src[0], r.Src[1]})
		case r.Dst[0].IsValid():
			h.except = append(h.except, Range{r.Dst[0], r.Dst[1]})
		}
	}
	h.sources, h.except = newSpans(h.sources...), newSpans(h.except...)
	return h
}

// writeFilter accepts what the pods send, to each other too, and what answers them.
func writeFilter(network string, h half) (rules []xtables.Match) {
	comment := commentFor(network)
	for _, r := range h.sources {
		rules = append(rules,
			xtables.Match{Src: r.pair(), Comment: comment, Target: "ACCEPT"},
			xtables.Match{Dst: r.pair(), Established: true, Comment: comment, Target: "ACCEPT"})
	}
	return rules
}

func readFilter(_ string, rules []xtables.Match) half {
	var h half
	for _, r := range rules {
		if r.Src[0].IsValid() && !r.Dst[0].IsValid() {
			h.sources = append(h.sources, Range{r.Src[0], r.Src[1]})
		}
	}
	h.sources = newSpans(h.sources...)
	return h
}

// chains is what a table holds of a network.
type chains struct {
	network string
	trunk   bool // our trunk is there
	exists  bool // the network's chain is there
	jumps   int  // from the base chain to the trunk
	links   int  // from the trunk to the network's chain
	others  int  // the trunk's other rules
	rules   []xtables.Match
}

// faults says what is not as the policy wants it.
func (s shape) faults(c chains, want half) (wrong []string) {
	if want.empty() {
		return nil
	}
	name := chainFor(c.network)
	if !c.exists {
		return []string{fmt.Sprintf("chain %s of table %s is missing", name, s.table)}
	}
	if c.jumps != 1 {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 in chain %s jump to %s", c.jumps, s.base, s.trunk))
	}
	if c.links != 1 {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 in chain %s jump to %s", c.links, s.trunk, name))
	}
	have := s.read(c.network, c.rules)
	if !slices.Equal(s.write(c.network, have), c.rules) {
		wrong = append(wrong, fmt.Sprintf("chain %s of table %s has rules that are not ours, or ours in another order", name, s.table))
	}
	return append(wrong, have.lacks(want)...)
}

// right reports whether the table holds exactly that.
func (s shape) right(c chains, want half) bool {
	if want.empty() {
		return !c.exists && c.links == 0
	}
	return len(s.faults(c, want)) == 0 && s.read(c.network, c.rules).equal(want)
}

// store reads and writes a shape in one of the kernel's packet filters.
type store interface {
	read(ctx context.Context, network string) (chains, error)
	// apply makes of what is in place what target says; an empty target removes the network, and with the last one the
	// trunk.
	apply(ctx context.Context, network string, target func(half) half) error
}
