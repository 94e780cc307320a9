//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/sources"
)

// askAtMost bounds the elements that are asked for one by one; sets that should hold more are read as a whole.
const askAtMost = 64

// question is what must be in one set.
type question struct {
	set   string
	spans sources.Ranges
	pods  map[netip.Addr]string
}

func (q question) keys() (out []nft.Element) {
	for _, r := range q.spans {
		out = append(out, nft.Element{Key: string(r.Start.AsSlice())})
		if r.End != r.Start {
			out = append(out, nft.Element{Key: string(r.End.AsSlice())})
		}
	}
	for _, a := range q.addrs() {
		out = append(out, nft.Element{Key: string(a.AsSlice())})
	}
	return out
}

func (q question) addrs() []netip.Addr {
	return order.Sorted(maps.Keys(q.pods), netip.Addr.Compare)
}

// look compares the policy with the kernel and says what is missing. It is one write, unless sets are large, and also asks
// what is passed as also.
func (b NFT) look(p Policy, also ...nft.Request) (wrong []string, answered []nft.Answer, err error) {
	c, err := nft.Open(b.NS)
	if err != nil {
		return nil, nil, err
	}
	var (
		reqs  = append([]nft.Request{nft.GetTable(ourTable()), nft.GetChain(ourTable(), postrouting)}, also...)
		asked []question
		large []question
		rules []nft.Rule
	)
	for _, f := range families {
		h := p.half(f)
		if h.Empty() {
			continue
		}
		rules = append(rules, f.rules(p.Network, h)...)
		for _, q := range f.questions(p.Network, h) {
			if keys := q.keys(); len(keys) <= askAtMost {
				reqs = append(reqs, nft.GetElements(ourTable(), q.set, keys...))
				asked = append(asked, q)
			} else {
				large = append(large, q)
			}
		}
	}
	if len(rules) == 0 && len(also) == 0 {
		return nil, nil, nil
	}
	answers, err := c.Query(append(reqs, nft.DumpRules(ourTable(), postrouting))...)
	if err != nil {
		return nil, nil, err
	}
	dormant, answers := answers[0].Dormant(), answers[1:]
	answered = answers[1 : 1+len(also)]
	if len(rules) == 0 {
		return nil, answered, nil
	}
	if err := chainFault(answers[0]); errors.Is(err, fs.ErrNotExist) {
		return []string{err.Error()}, answered, nil
	} else if errors.Is(err, errPolicy) {
		wrong = append(wrong, err.Error())
	} else if err != nil {
		return nil, answered, err
	}
	if dormant {
		wrong = append(wrong, "table "+ourTable().Title()+" is dormant")
	}
	for i, q := range asked {
		wrong = append(wrong, q.faults(answers[1+len(also)+i])...)
	}
	for _, q := range large {
		have, err := c.Elements(ourTable(), q.set)
		if err != nil {
			return nil, answered, err
		}
		wrong = append(wrong, q.compare(have)...)
	}
	return append(wrong, ruleFaults(rules, answers[len(answers)-1].Rules(nft.INet))...), answered, nil
}

func (f family) questions(network string, h half) (out []question) {
	names := f.sets(network)
	if len(h.Ranges) > 0 {
		out = append(out, question{set: names.src, spans: h.Ranges})
	}
	if len(h.Pods) > 0 {
		out = append(out, question{set: names.pods, pods: h.Pods})
	}
	return append(out, question{set: names.except, spans: h.Except})
}

var errPolicy = fmt.Errorf("the policy of chain %s of table %s is drop", postrouting, ourTable().Title())

// chainFault is [fs.ErrNotExist] if the chain is to be made, errPolicy if its policy is to be set, and another error if it
// is not ours to change.
func chainFault(a nft.Answer) error {
	if errors.Is(a.Err, fs.ErrNotExist) {
		return sentinel.Errorf(fs.ErrNotExist, "chain %s of table %s is missing", postrouting, ourTable().Title())
	}
	if a.Err != nil {
		return a.Err
	}
	for _, have := range a.Chains(nft.INet) {
		want := natChain()
		if want.Policy = nft.Drop; have == want {
			return errPolicy
		}
		if have != natChain() {
			return fmt.Errorf("chain %s of table %s is not the NAT chain that cniblocks makes (type nat hook postrouting "+
				"priority srcnat; policy accept): delete it with `nft delete table %[2]s`", postrouting, ourTable().Title())
		}
	}
	return nil
}

// faults judges an answer to keys. A range is in the set if its first and its last address are in the same interval.
func (q question) faults(a nft.Answer) (wrong []string) {
	got := a.Elements()
	next := func() (e nft.Element, ok bool) {
		if len(got) == 0 {
			return e, false
		}
		e, got = got[0], got[1:]
		return e, true
	}
	for _, r := range q.spans {
		first, ok := next()
		last := first
		if r.Start != r.End && ok {
			last, ok = next()
		}
		if !ok || first.End || first != last || first.Key > string(r.Start.AsSlice()) {
			return append(wrong, fmt.Sprintf("set %s of table %s lacks %s", q.set, ourTable().Title(), r))
		}
	}
	for _, addr := range q.addrs() {
		if e, ok := next(); !ok || e.Key != string(addr.AsSlice()) || e.Comment != q.pods[addr] {
			return append(wrong, fmt.Sprintf("set %s of table %s lacks %s of %s", q.set, ourTable().Title(), addr, q.pods[addr]))
		}
	}
	return wrong
}

// compare judges all elements of a set.
func (q question) compare(have []nft.Element) (wrong []string) {
	for _, r := range q.spans.Minus(toSpans(have)) {
		wrong = append(wrong, fmt.Sprintf("set %s of table %s lacks %s", q.set, ourTable().Title(), r))
	}
	pods := toPods(have)
	for _, addr := range q.addrs() {
		if pods[addr] != q.pods[addr] {
			wrong = append(wrong, fmt.Sprintf("set %s of table %s lacks %s of %s", q.set, ourTable().Title(), addr, q.pods[addr]))
		}
	}
	return wrong
}

// ruleFaults wants each rule exactly once, and none that bears no mark.
func ruleFaults(want, have []nft.Rule) (wrong []string) {
	for _, h := range have {
		if strange(h) {
			wrong = append(wrong, fmt.Sprintf("a rule that is not ours in chain %s of table %s does: %s", postrouting, ourTable().Title(), h.Exprs))
		}
	}
	for _, w := range want {
		text, n := w.Exprs.String(), 0
		for _, h := range have {
			if h.Comment == w.Comment && h.Exprs.String() == text {
				n++
			}
		}
		if n != 1 {
			wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 with comment %q in chain %s of table %s masquerade set %s", n, w.Comment,
				postrouting, ourTable().Title(), w.Exprs.Set()))
		}
	}
	return wrong
}

// strange reports whether a rule in the chain was put there by another program: it could decide before ours.
func strange(r nft.Rule) bool {
	_, ours := mark.Network(r.Comment)
	return !ours
}

func sameRule(a, b nft.Rule) bool {
	return a.Comment == b.Comment && a.Exprs.String() == b.Exprs.String()
}

// List implements [Backend].
func (b NFT) List(context.Context) ([]Policy, error) { return b.list("") }

// list leaves out one network, of which it reads no elements.
func (b NFT) list(without string) ([]Policy, error) {
	c, err := nft.Open(b.NS)
	if err != nil {
		return nil, fmt.Errorf("SNAT by nftables: %w", err)
	}
	rules, err := c.Rules(ourTable(), postrouting)
	if err != nil {
		return nil, fmt.Errorf("SNAT by nftables: %w", err)
	}
	found := map[string]map[family]half{}
	var order []string
	for _, r := range rules {
		network, ok := mark.Network(r.Comment)
		sets := r.Exprs.Lookups()
		if !ok || len(sets) != 2 || network == without {
			continue
		}
		if found[network] == nil {
			found[network] = map[family]half{}
			order = append(order, network)
		}
		if err := readRule(c, sets, found[network]); err != nil {
			return nil, fmt.Errorf("SNAT by nftables: %w", err)
		}
	}
	var out []Policy
	for _, network := range order {
		out = append(out, policyOf(network, found[network]))
	}
	return out, nil
}

// readRule adds what a rule masquerades to its network's halves.
func readRule(c *nft.Conn, sets []string, halves map[family]half) error {
	from, err := c.Elements(ourTable(), sets[0])
	if err != nil {
		return err
	}
	except, err := c.Elements(ourTable(), sets[1])
	if err != nil {
		return err
	}
	f := v6
	if strings.Contains(sets[0][:min(5, len(sets[0]))], "4") {
		f = v4
	}
	h := halves[f]
	h.Except = toSpans(except)
	if strings.HasPrefix(sets[0], "pods") {
		h.Pods = toPods(from)
	} else {
		h.Ranges = toSpans(from)
	}
	halves[f] = h
	return nil
}
