//go:build linux

package masq

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/sources"
)

// reading is what the kernel has of a network and family.
type reading struct {
	sources.Set
	sets  map[string]bool // those with the right definition
	wrong []string        // sets that must be made anew
	rules []nft.Rule      // all that look into the sets, whatever their comment
}

// update brings the network to what target makes of what is in place.
func (b NFT) update(ctx context.Context, network string, target func(family, half) half) error {
	c, err := nft.Open(b.NS)
	if err != nil {
		return b.fail(network, err)
	}
	return b.fail(network, c.Update(ctx, func(batch *nft.Batch) error {
		answers, err := c.Query(nft.GetChain(ourTable(), postrouting), nft.DumpRules(ourTable(), postrouting), nft.GetTable(ourTable()))
		if err != nil {
			return err
		}
		fresh := chainFault(answers[0])
		if fresh != nil && !errors.Is(fresh, fs.ErrNotExist) && !errors.Is(fresh, errPolicy) {
			return fresh
		}
		if answers[2].Dormant() {
			batch.WakeTable(ourTable())
		}
		sets, err := c.Sets(ourTable())
		if err != nil {
			return err
		}
		rules := answers[1].Rules(nft.INet)
		var plans []plan
		for _, f := range families {
			have, err := f.read(c, network, rules, sets)
			if err != nil {
				return err
			}
			plans = append(plans, plan{f, network, have, target(f, have.Set)})
		}
		if fresh != nil && slices.ContainsFunc(plans, func(p plan) bool { return !p.want.Empty() }) {
			batch.AddTable(ourTable())
			batch.AddChain(natChain())
		}
		var gone int
		for _, rule := range rules {
			planned := slices.ContainsFunc(plans, func(p plan) bool {
				return slices.ContainsFunc(p.have.rules, func(r nft.Rule) bool { return r.Handle == rule.Handle })
			})
			if strange(rule) && !planned {
				batch.DelRule(rule)
				gone++
			}
		}
		for _, p := range plans {
			gone += p.apply(batch)
		}
		if gone > 0 && gone == len(rules) && batchOnlyRemoves(plans) {
			return dropIfLast(c, batch, sets, plans)
		}
		return nil
	}))
}

func batchOnlyRemoves(plans []plan) bool {
	return !slices.ContainsFunc(plans, func(p plan) bool { return !p.want.Empty() })
}

// read finds the network's objects among those of the table.
func (f family) read(c *nft.Conn, network string, rules []nft.Rule, sets []nft.Set) (r reading, err error) {
	names := f.sets(network)
	r.sets = map[string]bool{}
	for _, s := range sets {
		if !slices.Contains(names.all(), s.Name) {
			continue
		}
		if s != f.set(s.Name, s.Name != names.pods) {
			r.wrong = append(r.wrong, s.Name)
			continue
		}
		r.sets[s.Name] = true
		list, err := c.Elements(ourTable(), s.Name)
		if err != nil {
			return r, err
		}
		switch s.Name {
		case names.src:
			r.Ranges = toSpans(list)
		case names.except:
			r.Except = toSpans(list)
		case names.pods:
			r.Pods = toPods(list)
		}
	}
	for _, rule := range rules {
		if slices.ContainsFunc(rule.Exprs.Lookups(), func(set string) bool { return slices.Contains(names.all(), set) }) {
			r.rules = append(r.rules, rule)
		}
	}
	return r, nil
}

// plan is the way from what is in place to what is wanted.
type plan struct {
	family
	network string
	have    reading
	want    half
}

// apply adds the difference to the batch, and returns how many rules it deletes.
func (p plan) apply(b *nft.Batch) (deleted int) {
	names := p.family.sets(p.network)
	wanted := p.family.rules(p.network, p.want)
	kept := make([]bool, len(wanted))
	for _, r := range p.have.rules {
		i := slices.IndexFunc(wanted, func(w nft.Rule) bool { return sameRule(w, r) })
		if i >= 0 && !kept[i] && len(p.have.wrong) == 0 {
			kept[i] = true
			continue
		}
		b.DelRule(r)
		deleted++
	}
	for _, s := range p.have.wrong {
		b.DelSet(ourTable(), s)
	}
	p.elements(b, names.src, true, fromSpans(p.have.Ranges), fromSpans(p.want.Ranges))
	p.elements(b, names.pods, false, fromPods(p.have.Pods), fromPods(p.want.Pods))
	p.elements(b, names.except, true, fromSpans(p.have.Except), fromSpans(p.want.Except))
	for i, r := range wanted {
		if !kept[i] {
			b.AppendRule(r)
		}
	}
	return deleted
}

// elements brings one set to where it should be. Sources and exceptions are written as whole intervals: the kernel
// refuses to have one half of an interval replaced.
func (p plan) elements(b *nft.Batch, set string, interval bool, have, want [][]nft.Element) {
	if len(want) == 0 {
		if p.have.sets[set] {
			b.DelSet(ourTable(), set)
		}
		return
	}
	if !p.have.sets[set] {
		b.AddSet(p.family.set(set, interval))
	}
	b.DelElements(ourTable(), set, difference(have, want))
	b.AddElements(ourTable(), set, difference(want, have))
}

// difference is the elements of groups in a that are not in b.
func difference(a, b [][]nft.Element) (out []nft.Element) {
	key := func(group []nft.Element) [2]nft.Element {
		return [2]nft.Element{group[0], group[len(group)-1]}
	}
	in := make(map[[2]nft.Element]bool, len(b))
	for _, group := range b {
		in[key(group)] = true
	}
	for _, group := range a {
		if !in[key(group)] {
			out = append(out, group...)
		}
	}
	return out
}

// dropIfLast removes the chain, which has no rules left, and the table if nobody else has anything in it.
func dropIfLast(c *nft.Conn, b *nft.Batch, sets []nft.Set, plans []plan) error {
	chains, err := c.Chains(nft.INet)
	if err != nil {
		return err
	}
	others := slices.ContainsFunc(chains, func(ch nft.Chain) bool { return ch.Table == ourTable() && ch.Name != postrouting })
	for _, s := range sets {
		ours := slices.ContainsFunc(plans, func(p plan) bool { return slices.Contains(p.family.sets(p.network).all(), s.Name) })
		others = others || !ours
	}
	b.DelChain(ourTable(), postrouting)
	if !others {
		b.DelTable(ourTable())
	}
	return nil
}

// fromSpans writes each range as where it begins and the first address after it. The last address of all has none after
// it: its interval stays open.
func fromSpans(s sources.Ranges) (groups [][]nft.Element) {
	for _, r := range s {
		group := []nft.Element{{Key: string(r.Start.AsSlice())}}
		if after := r.End.Next(); after.IsValid() {
			group = append(group, nft.Element{Key: string(after.AsSlice()), End: true})
		}
		groups = append(groups, group)
	}
	return groups
}

// toSpans reads the elements of an interval set, in whatever order they are.
func toSpans(list []nft.Element) sources.Ranges {
	sorted := slices.Clone(list)
	order.By(sorted, func(a, b nft.Element) int {
		if d := strings.Compare(a.Key, b.Key); d != 0 || a.End == b.End {
			return d
		}
		if a.End {
			return -1
		}
		return 1
	})
	var (
		out  []inet.Range
		open netip.Addr
	)
	for _, e := range sorted {
		at, ok := netip.AddrFromSlice([]byte(e.Key))
		if !ok {
			continue
		}
		if open.IsValid() && open.Less(at) {
			out = append(out, inet.Range{Start: open, End: at.Prev()})
		}
		open = netip.Addr{}
		if !e.End {
			open = at
		}
	}
	if open.IsValid() {
		out = append(out, inet.Range{Start: open, End: inet.RangeOf(netip.PrefixFrom(open, 0)).End})
	}
	return sources.NewRanges(out...)
}

func fromPods(pods map[netip.Addr]string) (groups [][]nft.Element) {
	for _, a := range order.Sorted(maps.Keys(pods), netip.Addr.Compare) {
		groups = append(groups, []nft.Element{{Key: string(a.AsSlice()), Comment: pods[a]}})
	}
	return groups
}

func toPods(list []nft.Element) map[netip.Addr]string {
	pods := map[netip.Addr]string{}
	for _, e := range list {
		if a, ok := netip.AddrFromSlice([]byte(e.Key)); ok {
			pods[a] = e.Comment
		}
	}
	return pods
}
