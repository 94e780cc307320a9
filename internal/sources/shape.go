//go:build linux

package sources

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

// Shape is how sets are written in a table of iptables.
type Shape struct {
	chains.Layout
	Write func(network string, s Set) []xtables.Match
	Read  func(network string, rules []xtables.Match) Set
}

// Change makes of the rules in place those of what target makes of them.
func (s Shape) Change(network string, target func(Set) Set) func([]xtables.Match) []xtables.Match {
	return func(have []xtables.Match) []xtables.Match {
		want := target(s.Read(network, have))
		if want.Empty() {
			return nil
		}
		return s.Write(network, want)
	}
}

// FaultsOf says what is not as the policy wants it.
func (s Shape) FaultsOf(network string, c chains.State, want Set) (wrong []string) {
	if want.Empty() {
		return nil
	}
	wrong = s.Faults(network, c)
	if !c.Exists {
		return wrong
	}
	have := s.Read(network, c.Rules)
	if !slices.Equal(s.Write(network, have), c.Rules) {
		wrong = append(wrong, fmt.Sprintf("chain %s of table %s has rules that are not ours, or ours in another order", mark.Chain(network), s.Table))
	}
	return append(wrong, have.Lacks(want)...)
}

const podWord = " pod "

// Origin is where packets may come from: a range of the network, or the address of a pod, which the comment names.
type Origin struct {
	inet.Range
	Comment string
}

// Origins are all of a set.
func (s Set) Origins(network string) (out []Origin) {
	for _, r := range s.Ranges {
		out = append(out, Origin{r, mark.Comment(network)})
	}
	for _, a := range order.Sorted(maps.Keys(s.Pods), netip.Addr.Compare) {
		out = append(out, Origin{inet.Range{Start: a, End: a}, mark.Comment(network) + podWord + s.Pods[a]})
	}
	return out
}

// Pair are the ends of a range, as rules have them.
func Pair(r inet.Range) [2]netip.Addr { return [2]netip.Addr{r.Start, r.End} }

// ReadOrigin adds the origin of a rule.
func (s *Set) ReadOrigin(network string, r xtables.Match) {
	if !r.Src[0].IsValid() {
		return
	}
	if owner, ok := strings.CutPrefix(r.Comment, mark.Comment(network)+podWord); ok {
		s.Pods[r.Src[0]] = owner
	} else {
		s.Ranges = append(s.Ranges, inet.Range{Start: r.Src[0], End: r.Src[1]})
	}
}
