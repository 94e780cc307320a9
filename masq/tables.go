//go:build linux

package masq

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
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
	return shape{table: "nat", base: "POSTROUTING", trunk: mark.Postrouting, write: writeNAT, read: readNAT}
}

func filterShape() shape {
	return shape{table: "filter", base: "FORWARD", trunk: mark.Forward, first: true, write: writeFilter, read: readFilter}
}

func writeNAT(network string, h half) (rules []xtables.Match) {
	rules = append(rules, xtables.Match{Mark: KubeMark, Comment: mark.Comment(network), Target: "RETURN"})
	for _, r := range h.except {
		rules = append(rules, xtables.Match{Dst: pair(r), Comment: mark.Comment(network), Target: "RETURN"})
	}
	for _, s := range h.origins(network) {
		rules = append(rules, xtables.Match{Src: pair(s.Range), Comment: s.comment, Target: "MASQUERADE", Random: true})
	}
	return rules
}

// writeFilter accepts what the pods send, to each other too, and what answers them.
func writeFilter(network string, h half) (rules []xtables.Match) {
	for _, s := range h.origins(network) {
		rules = append(rules,
			xtables.Match{Src: pair(s.Range), Comment: s.comment, Target: "ACCEPT"},
			xtables.Match{Dst: pair(s.Range), Established: true, Comment: s.comment, Target: "ACCEPT"})
	}
	return rules
}

const podWord = " pod "

// origin is where packets may come from: a range of the network, or the address of a pod, which the comment names.
type origin struct {
	inet.Range
	comment string
}

func (h half) origins(network string) (out []origin) {
	for _, r := range h.sources {
		out = append(out, origin{r, mark.Comment(network)})
	}
	for _, a := range slices.SortedFunc(maps.Keys(h.pods), netip.Addr.Compare) {
		out = append(out, origin{inet.Range{Start: a, End: a}, mark.Comment(network) + podWord + h.pods[a]})
	}
	return out
}

func pair(r inet.Range) [2]netip.Addr { return [2]netip.Addr{r.Start, r.End} }

func readNAT(network string, rules []xtables.Match) half {
	h := half{pods: map[netip.Addr]string{}}
	for _, r := range rules {
		h.readOrigin(network, r)
		if !r.Src[0].IsValid() && r.Dst[0].IsValid() {
			h.except = append(h.except, inet.Range{Start: r.Dst[0], End: r.Dst[1]})
		}
	}
	h.sources, h.except = newSpans(h.sources...), newSpans(h.except...)
	return h
}

func readFilter(network string, rules []xtables.Match) half {
	h := half{pods: map[netip.Addr]string{}}
	for _, r := range rules {
		h.readOrigin(network, r)
	}
	h.sources = newSpans(h.sources...)
	return h
}

func (h *half) readOrigin(network string, r xtables.Match) {
	if !r.Src[0].IsValid() {
		return
	}
	if owner, ok := strings.CutPrefix(r.Comment, mark.Comment(network)+podWord); ok {
		h.pods[r.Src[0]] = owner
	} else {
		h.sources = append(h.sources, inet.Range{Start: r.Src[0], End: r.Src[1]})
	}
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
	name := mark.Chain(c.network)
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
