//go:build linux

package portmap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// Table is the backend in nftables, written over netlink. Calls of several processes wait for each other.
type Table struct{ NS *netns.NS }

var _ Backend = Table{}

// open returns the connection, with the lock of the namespace held.
func (t Table) open(ctx context.Context) (c *nft.Conn, unlock func(), err error) {
	if c, err = nft.Open(t.NS); err != nil {
		return nil, nil, err
	}
	unlock, err = t.NS.Lock(ctx)
	return c, unlock, err
}

// state is what a look finds.
type state struct {
	wrong  []string // of what does not depend on pods
	rules  []nft.Rule
	record *record              // of the owner
	pods   map[bool]nft.Element // those with the pod's addresses
}

// subnets are the pod's, by family, of which it has ports.
func (t Table) subnets(p Pod) (map[bool]subnet, error) {
	out := map[bool]subnet{}
	for _, v4 := range []bool{true, false} {
		if len(p.of(v4)) > 0 {
			out[v4] = subnet{prefix: p.addr(v4), snat: p.SNAT}
		}
	}
	if s, ok := out[true]; ok && p.loops() {
		device, err := wayTo(t.NS, s.prefix.Addr())
		if err != nil {
			return nil, err
		}
		if s.device = device; device == p.Device { // it goes with the pod, and the parameter with it
			s.device = ""
		}
		out[true] = s
	}
	return out, nil
}

// look asks in one write.
func (t Table) look(c *nft.Conn, p Pod, nets map[bool]subnet) (st state, err error) {
	reqs := []nft.Request{nft.GetTable(table()), nft.GetElements(table(), owners, nft.Element{Key: recordKey(label(p.Owner))})}
	for _, chain := range bases() {
		reqs = append(reqs, nft.GetChain(table(), chain.Name))
	}
	fixed := len(reqs)
	var asked []bool
	for v4, s := range nets {
		asked = append(asked, v4)
		reqs = append(reqs, nft.GetElements(table(), families[v4].pods, nft.Element{Key: string(s.prefix.Addr().AsSlice())}))
	}
	answers, err := c.Query(append(reqs, nft.DumpRules(table(), ""))...)
	if err != nil {
		return st, err
	}
	if answers[0].Dormant() {
		st.wrong = append(st.wrong, "table "+table().Title()+" is dormant")
	}
	for i, want := range bases() {
		a := answers[2+i]
		if a.Err != nil && !errors.Is(a.Err, fs.ErrNotExist) {
			return st, a.Err
		}
		if have := a.Chains(nft.INet); len(have) == 0 {
			st.wrong = append(st.wrong, fmt.Sprintf("chain %s of table %s is missing", want.Name, table().Title()))
		} else if have[0] != want {
			return st, fmt.Errorf("chain %s of table %s is not the one that cniblocks makes: delete it with `nft delete table %[2]s`", want.Name, table().Title())
		}
	}
	for _, e := range answers[1].Elements() {
		if r, ok := toRecord(e); ok && r.label == label(p.Owner) {
			st.record = &r
		}
	}
	st.pods = map[bool]nft.Element{}
	for i, v4 := range asked {
		for _, e := range answers[fixed+i].Elements() {
			st.pods[v4] = e
		}
	}
	st.rules = answers[len(answers)-1].Rules(nft.INet)
	st.wrong = append(st.wrong, faults(static(), st.rules, prerouting, output, hostPorts, postrouting)...)
	return st, nil
}

// Set implements [Backend].
func (t Table) Set(ctx context.Context, p Pod) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if len(p.Maps) == 0 {
		return t.Remove(ctx, p.Owner)
	}
	c, unlock, err := t.open(ctx)
	if err != nil {
		return fail(p.Owner, err)
	}
	defer unlock()
	return fail(p.Owner, t.set(ctx, c, p))
}

func (t Table) set(ctx context.Context, c *nft.Conn, p Pod) error {
	nets, err := t.subnets(p)
	if err != nil {
		return err
	}
	st, err := t.look(c, p, nets)
	if err != nil {
		return err
	}
	gone := map[string]bool{} // labels whose elements go
	if st.record != nil {
		gone[label(p.Owner)] = true
	}
	for v4, e := range st.pods {
		if e.Comment != label(p.Owner) {
			refuse := sentinel.Errorf(fs.ErrExist, "%s has the address %s: remove that one first", who(e.Comment), p.addr(v4).Addr())
			if err := t.settle(ctx, c, e.Comment, refuse, gone); err != nil {
				return err
			}
		}
	}
	if err := t.crossing(ctx, c, p, gone); err != nil {
		return err
	}
	if err := (IPTables{NS: t.NS}).refuse(ctx, p); err != nil {
		return err
	}
	fresh := len(st.wrong) > 0
	err = t.commit(c, p, nets, st, fresh, gone)
	switch {
	case errors.Is(err, fs.ErrExist):
		if err = t.held(ctx, c, p, gone); err == nil {
			err = t.commit(c, p, nets, st, fresh, gone)
		}
	case errors.Is(err, fs.ErrNotExist): // a set that no rule looks into is missing
		err = t.commit(c, p, nets, st, true, gone)
	}
	if err != nil {
		return err
	}
	if p.loops() {
		if err := openLoopback(t.NS, nets[true].device, p); err != nil {
			return err
		}
	}
	return endStale(ctx, t.NS, c, p)
}

// commit writes all of the pod in one transaction.
func (t Table) commit(c *nft.Conn, p Pod, nets map[bool]subnet, st state, fresh bool, gone map[string]bool) error {
	var b nft.Batch
	if fresh {
		build(&b)
	}
	if len(gone) > 0 {
		all, err := t.elements(c)
		if err != nil {
			return err
		}
		all.drop(&b, func(l string) bool { return gone[l] })
	}
	l := label(p.Owner)
	r := record{device: p.Device, label: l}
	for _, v4 := range []bool{true, false} {
		maps := p.of(v4)
		if len(maps) == 0 {
			continue
		}
		s, f := nets[v4], families[v4]
		if err := t.addSubnet(c, &b, s, st); err != nil {
			return err
		}
		addr := p.addr(v4).Addr()
		b.AddElements(table(), f.pods, []nft.Element{{Key: string(addr.AsSlice()), Jump: s.chain(), Comment: l}})
		r.addrs = append(r.addrs, addr)
		bySet := map[string][]nft.Element{}
		for _, m := range maps {
			bySet[m.set()] = append(bySet[m.set()], m.element(l))
			if p.SNAT == SNATNone && v4 && m.any() {
				bySet[noSNAT] = append(bySet[noSNAT], nft.Element{Key: m.key(), Comment: l})
			}
		}
		for _, set := range []string{f.any, f.one, noSNAT} {
			b.AddElements(table(), set, bySet[set])
			r.n += len(bySet[set])
		}
	}
	b.AddElements(table(), owners, []nft.Element{r.element()})
	return c.Commit(0, &b)
}

// addSubnet makes the chain of a subnet, and notes the device whose route_localnet is about to change.
func (t Table) addSubnet(c *nft.Conn, b *nft.Batch, s subnet, st state) error {
	b.AddChain(nft.Chain{Table: table(), Name: s.chain()})
	if len(faults(s.rules(), st.rules, s.chain())) > 0 {
		b.FlushChain(table(), s.chain())
		for _, r := range s.rules() {
			b.AppendRule(r)
		}
	}
	if s.device == "" {
		return nil
	}
	value, err := sysctl.Get(t.NS, routeLocalnet(s.device))
	if err != nil || value != "0" {
		return err
	}
	e := nft.Element{Key: name(s.device), Comment: mark.Word}
	answers, err := c.Query(nft.GetElements(table(), localnet, e))
	if err == nil && len(answers[0].Elements()) == 0 {
		b.AddElements(table(), localnet, []nft.Element{e})
	}
	return err
}

// settle is [settle] for a holder in the table.
func (t Table) settle(ctx context.Context, c *nft.Conn, holder string, refuse error, gone map[string]bool) error {
	r, err := t.record(c, holder)
	if err != nil {
		return err
	}
	if r == nil { // nobody removes it
		gone[holder] = true
		return nil
	}
	return settle(ctx, t.NS, r.device, holder, refuse, gone)
}

// crossing looks for holders of the pod's ports whom the kernel does not find, since one has the port on every address and
// the other on a single one.
func (t Table) crossing(ctx context.Context, c *nft.Conn, p Pod, gone map[string]bool) error {
	for _, v4 := range []bool{true, false} {
		var single []Map
		dump := false
		for _, m := range p.of(v4) {
			if m.any() {
				dump = true
			} else {
				all := m
				all.Host = netipAny(m)
				single = append(single, all)
			}
		}
		found, err := t.get(c, single)
		if err != nil {
			return err
		}
		if dump {
			list, err := c.Elements(table(), families[v4].one)
			if err != nil {
				return err
			}
			found = append(found, list...)
		}
		if err := t.refuseHeld(ctx, c, p, v4, found, gone); err != nil {
			return err
		}
	}
	return nil
}

// held looks for holders of exactly the pod's ports.
func (t Table) held(ctx context.Context, c *nft.Conn, p Pod, gone map[string]bool) error {
	before := len(gone)
	for _, v4 := range []bool{true, false} {
		found, err := t.get(c, p.of(v4))
		if err == nil {
			err = t.refuseHeld(ctx, c, p, v4, found, gone)
		}
		if err != nil {
			return err
		}
	}
	if len(gone) == before {
		gone[label(p.Owner)] = true // a part of it is there without its record
	}
	return nil
}

func (t Table) refuseHeld(ctx context.Context, c *nft.Conn, p Pod, v4 bool, found []nft.Element, gone map[string]bool) error {
	for _, e := range found {
		theirs, ok := toMap(v4, e)
		if !ok || gone[e.Comment] {
			continue
		}
		for _, m := range p.of(v4) {
			if !m.overlaps(theirs) {
				continue
			}
			if e.Comment == label(p.Owner) {
				gone[e.Comment] = true
			} else if err := t.settle(ctx, c, e.Comment, taken(m, e.Comment), gone); err != nil {
				return err
			}
		}
	}
	return nil
}

const atOnce = 50 // elements that are asked for in one write

// get returns the elements of maps that are there.
func (t Table) get(c *nft.Conn, maps []Map) (found []nft.Element, err error) {
	for len(maps) > 0 {
		n := min(atOnce, len(maps))
		var reqs []nft.Request
		for _, m := range maps[:n] {
			reqs = append(reqs, nft.GetElements(table(), m.set(), nft.Element{Key: m.key()}))
		}
		answers, err := c.Query(reqs...)
		if err != nil {
			return nil, err
		}
		for _, a := range answers {
			found = append(found, a.Elements()...)
		}
		maps = maps[n:]
	}
	return found, nil
}

// Check implements [Backend].
func (t Table) Check(ctx context.Context, p Pod) error {
	if err := p.Validate(); err != nil || len(p.Maps) == 0 {
		return err
	}
	c, err := nft.Open(t.NS)
	if err != nil {
		return fail(p.Owner, err)
	}
	wrong, err := t.check(c, p)
	if err == nil && len(wrong) > 0 {
		err = errors.New(strings.Join(wrong, "; "))
	}
	return fail(p.Owner, err)
}

func (t Table) check(c *nft.Conn, p Pod) ([]string, error) {
	nets, err := t.subnets(p)
	if err != nil {
		return nil, err
	}
	st, err := t.look(c, p, nets)
	if err != nil {
		return nil, err
	}
	wrong, l := st.wrong, label(p.Owner)
	if st.record == nil {
		wrong = append(wrong, fmt.Sprintf("set %s of table %s lacks the pod", owners, table().Title()))
	}
	for v4, s := range nets {
		if e := st.pods[v4]; e.Comment != l || e.Jump != s.chain() {
			wrong = append(wrong, fmt.Sprintf("map %s of table %s does not lead %s of %s to chain %s", families[v4].pods, table().Title(), s.prefix.Addr(), l, s.chain()))
		}
		wrong = append(wrong, faults(s.rules(), st.rules, s.chain())...)
		maps := p.of(v4)
		found, err := t.get(c, maps)
		if err != nil {
			return nil, err
		}
		have := map[nft.Element]bool{}
		for _, e := range found {
			have[e] = true
		}
		for _, m := range maps {
			if !have[m.element(l)] {
				wrong = append(wrong, fmt.Sprintf("map %s of table %s does not lead %s to %s for %s", m.set(), table().Title(), m, m.Pod, l))
			}
		}
	}
	if p.loops() {
		err := checkLoopback(t.NS, nets[true].device, p)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong, nil
}

// Ready implements [Backend]. Where no pod has a host port yet it tries a transaction that never takes place.
func (t Table) Ready(context.Context) error {
	c, err := nft.Open(t.NS)
	if err == nil {
		if _, err = c.Chain(table(), prerouting); errors.Is(err, fs.ErrNotExist) {
			err = c.Try(build)
		}
	}
	if nft.Missing(err) || errors.Is(err, errors.ErrUnsupported) {
		err = sentinel.Errorf(errors.ErrUnsupported, `host ports: the kernel cannot keep them in nftables: %w: load the modules nf_tables, nft_chain_nat, nft_fib_inet, nft_nat and nft_masq, or use the backend "iptables"`, err)
	}
	return err
}

// refuse fails if the programs' chains have a port of the pod's.
func (t IPTables) refuse(ctx context.Context, p Pod) error {
	for _, f := range []xtables.Family{4, 6} {
		if len(p.of(f == 4)) == 0 {
			continue
		}
		list, err := t.list(ctx, f)
		if err != nil {
			return err
		}
		if err := refuseAny(ctx, t.NS, p, list); err != nil {
			return err
		}
	}
	return nil
}

// refuseAny fails if a pod that is alive has a port of p, which another backend keeps.
func refuseAny(ctx context.Context, ns *netns.NS, p Pod, list []Pod) error {
	for _, o := range list {
		if o.Owner == label(p.Owner) {
			continue
		}
		for _, theirs := range o.Maps {
			for _, m := range p.Maps {
				if m.overlaps(theirs) {
					if err := settle(ctx, ns, o.Device, o.Owner, taken(m, o.Owner), map[string]bool{}); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
