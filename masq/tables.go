//go:build linux

package masq

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
)

// shape is how this package uses a table of iptables.
type shape struct {
	chains.Layout
	write func(network string, h half) []xtables.Match
	read  func(network string, rules []xtables.Match) half
}

func natShape() shape {
	return shape{chains.Layout{Table: "nat", Base: "POSTROUTING", Trunk: mark.Postrouting}, writeNAT, readNAT}
}

func filterShape() shape {
	return shape{chains.Layout{Table: "filter", Base: "FORWARD", Trunk: mark.Forward, First: true}, writeFilter, readFilter}
}

// change makes of the rules in place those of what target makes of them.
func (s shape) change(network string, target func(half) half) func([]xtables.Match) []xtables.Match {
	return func(have []xtables.Match) []xtables.Match {
		want := target(s.read(network, have))
		if want.empty() {
			return nil
		}
		return s.write(network, want)
	}
}

// faults says what is not as the policy wants it.
func (s shape) faults(network string, c chains.State, want half) (wrong []string) {
	if want.empty() {
		return nil
	}
	wrong = s.Faults(network, c)
	if !c.Exists {
		return wrong
	}
	have := s.read(network, c.Rules)
	if !slices.Equal(s.write(network, have), c.Rules) {
		wrong = append(wrong, fmt.Sprintf("chain %s of table %s has rules that are not ours, or ours in another order", mark.Chain(network), s.Table))
	}
	return append(wrong, have.lacks(want)...)
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
	for _, a := range order.Sorted(maps.Keys(h.pods), netip.Addr.Compare) {
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
