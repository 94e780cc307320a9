//go:build linux

package spoof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/netns"
)

// Port is a port of a bridge and the one source address that its frames may have.
type Port struct {
	Name  string // of the interface, at most 15 bytes
	MAC   inet.MAC
	Owner string // whose port it is, for Retain: the link's alias. One of more than 230 bytes is kept as its beginning and a hash
}

const (
	chainName = "prerouting"
	portSet   = "ports"
	pairSet   = "allowed"
	maxOwner  = 230
)

func table() nft.Table { return nft.Table{Family: nft.Bridge, Name: mark.Word} }

func chain() nft.Chain {
	const first = -300 // before what bridges and other filters do
	return nft.Chain{Table: table(), Name: chainName, Hook: nft.Hook{
		Type: "filter", Num: nft.Prerouting, Priority: first, Policy: nft.Accept,
	}}
}

func rule() nft.Rule {
	return nft.Rule{Table: table(), Chain: chainName, Comment: mark.Word,
		Exprs: nft.Exprs{}.InName().In(portSet).InNameMAC().NotIn(pairSet).Verdict(nft.Drop)}
}

func sets() []nft.Set {
	return []nft.Set{{Table: table(), Name: portSet, Key: nft.IfName}, {Table: table(), Name: pairSet, Key: nft.IfNameMAC}}
}

func (p Port) validate() error {
	switch {
	case p.Name == "" || len(p.Name) >= unix.IFNAMSIZ:
		return fmt.Errorf("spoof check: port name %q: want 1 to %d bytes", p.Name, unix.IFNAMSIZ-1)
	case !p.MAC.Unicast():
		return fmt.Errorf("spoof check of port %s: MAC address %s: want one that an interface can have", p.Name, p.MAC)
	case p.Owner == "":
		return fmt.Errorf("spoof check of port %s: it has no owner", p.Name)
	}
	return nil
}

// portKey pads the name with zeros.
func portKey(name string) string { return name + strings.Repeat("\x00", unix.IFNAMSIZ-len(name)) }

func (p Port) portElement() nft.Element {
	return nft.Element{Key: portKey(p.Name), Comment: p.MAC.String() + " " + mark.Label(p.Owner, maxOwner)}
}

func (p Port) pairElement() nft.Element {
	return nft.Element{Key: portKey(p.Name) + string(p.MAC[:]) + "\x00\x00"}
}

// fromElement reads a port from its element in the set of ports.
func fromElement(e nft.Element) (p Port, ok bool) {
	mac, owner, _ := strings.Cut(e.Comment, " ")
	hw, err := inet.ParseMAC(mac)
	if err != nil {
		return p, false
	}
	return Port{Name: strings.TrimRight(e.Key, "\x00"), MAC: hw, Owner: owner}, true
}

// Allow guards the port. A port of that name that was guarded before has only the new address from now on. It is
// idempotent, and writes nothing when all is in place.
func Allow(ctx context.Context, ns *netns.NS, p Port) error {
	if err := p.validate(); err != nil {
		return err
	}
	c, err := nft.Open(ns)
	if err != nil {
		return p.fail(err)
	}
	st, err := p.look(c)
	if err != nil || len(st.wrong) == 0 {
		return p.fail(err)
	}
	if st.static && st.absent { // the usual case: nothing but the elements is missing, and nobody else makes these
		var b nft.Batch
		p.add(&b)
		if err := c.Commit(0, &b); err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return p.fail(err)
		}
	}
	return p.fail(c.Update(ctx, func(b *nft.Batch) error { return p.plan(c, b) }))
}

func (p Port) add(b *nft.Batch) {
	b.AddElements(table(), portSet, []nft.Element{p.portElement()})
	b.AddElements(table(), pairSet, []nft.Element{p.pairElement()})
}

func (p Port) fail(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("spoof check of port %s: %w", p.Name, err)
}

// state is what a look finds.
type state struct {
	static bool // chain, rule and sets are as they should be
	absent bool // the port is not guarded
	wrong  []string
}

// look asks in one write.
func (p Port) look(c *nft.Conn) (st state, err error) {
	answers, err := c.Query(nft.GetChain(table(), chainName), nft.GetElements(table(), portSet, p.portElement()),
		nft.GetElements(table(), pairSet, p.pairElement()), nft.DumpRules(table(), chainName))
	if err != nil {
		return st, err
	}
	there, err := chainThere(answers[0])
	if err != nil {
		return st, err
	}
	rules := 0
	for _, r := range answers[3].Rules(nft.Bridge) {
		if r.Exprs.String() == rule().Exprs.String() {
			rules++
		}
	}
	st.static = there && rules == 1
	if !st.static {
		st.wrong = append(st.wrong, fmt.Sprintf("%d rules instead of 1 in chain %s of table %s drop by sets %s and %s",
			rules, chainName, table().Title(), portSet, pairSet))
	}
	port := answers[1].Elements()
	st.absent = len(port) == 0
	if st.absent || port[0] != p.portElement() {
		st.wrong = append(st.wrong, fmt.Sprintf("set %s of table %s lacks it with %s of %s", portSet, table().Title(), p.MAC.String(), p.Owner))
	}
	if len(answers[2].Elements()) == 0 {
		st.wrong = append(st.wrong, fmt.Sprintf("set %s of table %s lacks it with %s", pairSet, table().Title(), p.MAC.String()))
	}
	return st, nil
}

// chainThere is an error if there is a chain of that name that does something else.
func chainThere(a nft.Answer) (bool, error) {
	if errors.Is(a.Err, fs.ErrNotExist) {
		return false, nil
	}
	if a.Err != nil {
		return false, a.Err
	}
	if !slices.Equal(a.Chains(nft.Bridge), []nft.Chain{chain()}) {
		return false, fmt.Errorf("chain %s of table %s is not the one that cniblocks makes: delete it with `nft delete table %[2]s`",
			chainName, table().Title())
	}
	return true, nil
}

// plan adds to the batch what is missing.
func (p Port) plan(c *nft.Conn, b *nft.Batch) error {
	answers, err := c.Query(nft.GetChain(table(), chainName), nft.DumpRules(table(), chainName))
	if err != nil {
		return err
	}
	if _, err := chainThere(answers[0]); err != nil {
		return err
	}
	have, err := c.Sets(table())
	if err != nil {
		return err
	}
	b.AddTable(table())
	b.AddChain(chain())
	kept := false
	for _, r := range answers[1].Rules(nft.Bridge) {
		switch {
		case r.Exprs.String() != rule().Exprs.String():
		case kept:
			b.DelRule(r)
		default:
			kept = true
		}
	}
	for _, s := range sets() {
		if !slices.Contains(have, s) {
			b.AddSet(s)
		}
	}
	if !kept {
		b.AppendRule(rule())
	}
	return p.replace(c, b)
}

// replace puts the port's elements in the place of those that its name has now.
func (p Port) replace(c *nft.Conn, b *nft.Batch) error {
	ports, err := c.Elements(table(), portSet)
	if err != nil {
		return err
	}
	pairs, err := c.Elements(table(), pairSet)
	if err != nil {
		return err
	}
	drop(b, ports, pairs, func(name, _ string) bool { return name == p.Name })
	p.add(b)
	return nil
}

// drop deletes the elements of the ports that gone names, by name and owner's label.
func drop(b *nft.Batch, ports, pairs []nft.Element, gone func(name, owner string) bool) (left int) {
	names := map[string]bool{}
	var oldPorts, oldPairs []nft.Element
	for _, e := range ports {
		_, owner, _ := strings.Cut(e.Comment, " ")
		if gone(strings.TrimRight(e.Key, "\x00"), owner) {
			names[e.Key] = true
			oldPorts = append(oldPorts, e)
		}
	}
	for _, e := range pairs {
		if key := e.Key[:unix.IFNAMSIZ]; names[key] || gone(strings.TrimRight(key, "\x00"), "") {
			oldPairs = append(oldPairs, e)
		}
	}
	b.DelElements(table(), portSet, oldPorts)
	b.DelElements(table(), pairSet, oldPairs)
	return len(ports) - len(oldPorts)
}

// Check returns an error that says what of the port's guard is missing or wrong.
func Check(_ context.Context, ns *netns.NS, p Port) error {
	if err := p.validate(); err != nil {
		return err
	}
	c, err := nft.Open(ns)
	if err != nil {
		return p.fail(err)
	}
	st, err := p.look(c)
	if err == nil && len(st.wrong) > 0 {
		err = errors.New(strings.Join(st.wrong, "; "))
	}
	return p.fail(err)
}
