//go:build linux

package portmap

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
)

// content is the elements of the table by set.
type content map[string][]nft.Element

// elements reads all but those of localnet.
func (t Table) elements(c *nft.Conn) (content, error) {
	all := content{}
	for _, s := range sets() {
		if s.Name == localnet {
			continue
		}
		list, err := c.Elements(table(), s.Name)
		if err != nil {
			return nil, err
		}
		all[s.Name] = list
	}
	return all, nil
}

// drop deletes elements of labels, and counts how many pods each chain of a subnet loses. It returns the maps that went.
func (all content) drop(b *nft.Batch, of func(label string) bool) (lost map[string]int, maps []Map) {
	lost = map[string]int{}
	for _, s := range sets() {
		var list []nft.Element
		for _, e := range all[s.Name] {
			if !of(labelOf(s.Name, e)) {
				continue
			}
			list = append(list, e)
			if e.Jump != "" {
				lost[e.Jump]++
			}
			for v4, f := range families {
				if s.Name == f.any || s.Name == f.one {
					if m, ok := toMap(v4, e); ok {
						maps = append(maps, m)
					}
				}
			}
		}
		b.DelElements(table(), s.Name, list)
	}
	return lost, maps
}

// Remove implements [Backend].
func (t Table) Remove(ctx context.Context, owner string, maps ...Map) error {
	c, err := nft.Open(t.NS)
	if nft.Missing(err) {
		return nil
	}
	if err != nil {
		return fail(owner, err)
	}
	r, err := t.record(c, owner)
	if err != nil || r == nil {
		return fail(owner, err)
	}
	unlock, err := t.NS.Lock(ctx)
	if err != nil {
		return fail(owner, err)
	}
	defer unlock()
	if r, err = t.record(c, owner); err != nil || r == nil {
		return fail(owner, err)
	}
	all, err := t.known(c, *r, maps)
	if err == nil && all == nil {
		all, err = t.elements(c)
	}
	if err == nil {
		err = t.remove(ctx, c, all, func(l string) bool { return l == r.label })
	}
	return fail(owner, err)
}

// record finds that of an owner; nil if there is none.
func (t Table) record(c *nft.Conn, owner string) (*record, error) {
	answers, err := c.Query(nft.GetElements(table(), owners, nft.Element{Key: recordKey(label(owner))}))
	if err != nil || nft.Missing(answers[0].Err) {
		return nil, err
	}
	for _, e := range answers[0].Elements() {
		if r, ok := toRecord(e); ok && r.label == label(owner) {
			return &r, nil
		}
	}
	return nil, nil
}

// known is all that an owner has, if the maps are all of it, else nil.
func (t Table) known(c *nft.Conn, r record, maps []Map) (content, error) {
	all := content{owners: {r.element()}}
	seen := map[string]bool{}
	n := 0
	ask := func(set, key string) error {
		if seen[set+key] {
			return nil
		}
		seen[set+key] = true
		answers, err := c.Query(nft.GetElements(table(), set, nft.Element{Key: key}))
		if err != nil {
			return err
		}
		for _, e := range answers[0].Elements() {
			if e.Comment == r.label {
				all[set] = append(all[set], e)
				n++
			}
		}
		return nil
	}
	for _, m := range maps {
		if !m.Host.IsValid() || len(maps) > atOnce {
			return nil, nil
		}
		if err := ask(m.set(), m.key()); err != nil {
			return nil, err
		}
		if n < r.n && m.any() && m.Host.Addr().Is4() {
			if err := ask(noSNAT, m.key()); err != nil {
				return nil, err
			}
		}
	}
	if n != r.n {
		return nil, nil
	}
	for _, a := range r.addrs {
		if err := ask(families[a.Is4()].pods, string(a.AsSlice())); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// remove takes away what is of labels, chains of subnets that no pod needs any more, and with the last the table; then
// it gives back what was changed for them.
func (t Table) remove(ctx context.Context, c *nft.Conn, all content, of func(string) bool, sweep ...string) error {
	var b nft.Batch
	lost, maps := all.drop(&b, of)
	for _, chain := range sweep {
		lost[chain] += 0
	}
	devices, err := t.tidy(c, &b, lost)
	if err != nil {
		return err
	}
	if err := c.Commit(0, &b); err != nil {
		return err
	}
	if err := closeLoopback(ctx, t.NS, devices, false); err != nil {
		return err
	}
	return endOf(c, maps)
}

// chains are those of subnets.
func (t Table) chains(c *nft.Conn) (names []string, err error) {
	list, err := c.Chains(nft.INet)
	for _, ch := range list {
		if ch.Table == table() && strings.HasPrefix(ch.Name, subnets) {
			names = append(names, ch.Name)
		}
	}
	return names, err
}

// tidy deletes chains that lose their last pods, and finds the devices whose route_localnet nobody needs any more.
func (t Table) tidy(c *nft.Conn, b *nft.Batch, lost map[string]int) (devices []string, err error) {
	empty := map[string]bool{}
	for chain, n := range lost {
		answers, err := c.Query(nft.GetChain(table(), chain), nft.DumpRules(table(), chain))
		if err != nil {
			return nil, err
		}
		if answers[0].Err == nil && answers[0].Uses()-len(answers[1].Rules(nft.INet)) <= n {
			empty[chain] = true
		}
	}
	if len(empty) == 0 {
		return nil, nil
	}
	names, err := t.chains(c)
	if err != nil {
		return nil, err
	}
	noted, err := c.Elements(table(), localnet)
	if err != nil {
		return nil, err
	}
	var free []nft.Element
	for _, e := range noted {
		device := strings.TrimRight(e.Key, "\x00")
		if !slices.ContainsFunc(names, func(chain string) bool { return !empty[chain] && needs(chain, device) }) {
			free, devices = append(free, e), append(devices, device)
		}
	}
	if len(names) == len(empty) {
		*b = nft.Batch{}
		b.DelTable(table())
		return devices, nil
	}
	for chain := range empty {
		b.DelChain(table(), chain)
	}
	b.DelElements(table(), localnet, free)
	return devices, nil
}

// Retain implements [Backend].
func (t Table) Retain(ctx context.Context, prefix string, live []string) error {
	c, err := nft.Open(t.NS)
	if nft.Missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	unlock, err := t.NS.Lock(ctx)
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	defer unlock()
	names, err := t.chains(c)
	if err == nil && len(names) == 0 || nft.Missing(err) {
		return nil
	}
	var all content
	if err == nil {
		all, err = t.elements(c)
	}
	if err == nil {
		gone := dead(prefix, live)
		err = t.remove(ctx, c, all, func(l string) bool { return l != "" && gone(l) }, names...)
	}
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	return nil
}

// List implements [Backend].
func (t Table) List(context.Context) ([]Pod, error) {
	c, err := nft.Open(t.NS)
	if nft.Missing(err) {
		return nil, nil
	}
	var all content
	if err == nil {
		all, err = t.elements(c)
	}
	if err != nil && !nft.Missing(err) {
		return nil, fmt.Errorf("host ports: %w", err)
	}
	var pods podList
	for _, e := range all[owners] {
		if r, ok := toRecord(e); ok {
			p := pods.of(r.label)
			p.Device = r.device
			for _, a := range r.addrs {
				p.Addrs = append(p.Addrs, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	for v4, f := range families {
		for _, set := range []string{f.any, f.one} {
			for _, e := range all[set] {
				if m, ok := toMap(v4, e); ok {
					p := pods.of(e.Comment)
					p.Maps = append(p.Maps, m)
				}
			}
		}
	}
	for _, e := range append(all["pods4"], all["pods6"]...) {
		p := pods.of(e.Comment)
		switch {
		case strings.HasSuffix(e.Jump, "/none"):
			p.SNAT = SNATNone
		case strings.HasSuffix(e.Jump, "/all"):
			p.SNAT = SNATAll
		}
	}
	return pods.sorted(), nil
}

// Localnet lists the links whose route_localnet was 0 and is 1 for pods that have host ports in the table.
func (t Table) Localnet(context.Context) (devices []string, err error) {
	c, err := nft.Open(t.NS)
	if err == nil {
		var list []nft.Element
		list, err = c.Elements(table(), localnet)
		for _, e := range list {
			devices = append(devices, strings.TrimRight(e.Key, "\x00"))
		}
	}
	if nft.Missing(err) {
		err = nil
	}
	return devices, err
}
