//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// program is a store that the iptables programs read and write, whichever packet filter they keep.
type program struct {
	shape
	ns   *netns.NS
	prog xtables.Programs
}

func (s program) read(ctx context.Context, network string) (chains, error) {
	rs, err := s.prog.Save(ctx, s.ns, s.table)
	return s.chains(rs, network), err
}

func (s program) chains(rs xtables.Ruleset, network string) chains {
	name := mark.Chain(network)
	c := chains{network: network}
	_, c.trunk = rs[s.trunk]
	_, c.exists = rs[name]
	for _, r := range rs[name].Rules {
		c.rules = append(c.rules, r.Match)
	}
	c.jumps = len(jumpsTo(rs, s.base, s.trunk))
	c.links = len(jumpsTo(rs, s.trunk, name))
	c.others = len(rs[s.trunk].Rules) - c.links
	return c
}

// jumpsTo are the rules of a chain that jump to another.
func jumpsTo(rs xtables.Ruleset, from, to string) (out []xtables.Rule) {
	for _, r := range rs[from].Rules {
		if r.Target == to {
			out = append(out, r)
		}
	}
	return out
}

func (s program) apply(ctx context.Context, network string, target func(half) half) error {
	const tries = 5 // another program may have changed the table between the reading and the writing
	unlock, err := s.ns.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var failed error
	for range tries {
		rs, err := s.prog.Save(ctx, s.ns, s.table)
		if err != nil {
			return err
		}
		c := s.chains(rs, network)
		want := target(s.shape.read(network, c.rules))
		if s.right(c, want) {
			return nil
		}
		failed = s.prog.Restore(ctx, s.ns, s.table, s.script(rs, network, want))
		if ctx.Err() != nil {
			return errors.Join(failed, context.Cause(ctx))
		}
	}
	if failed != nil {
		return failed
	}
	return fmt.Errorf("another program takes it away as soon as it is made: table %s", s.table)
}

// script is what iptables-restore needs to get from a ruleset to what is wanted. To name a chain in the form of
// iptables-save makes or empties it.
func (s program) script(rs xtables.Ruleset, network string, want half) (lines []string) {
	name := mark.Chain(network)
	link, jump := jumpsTo(rs, s.trunk, name), jumpsTo(rs, s.base, s.trunk)
	if want.empty() {
		return s.removal(rs, name)
	}
	if _, ok := rs[s.trunk]; !ok {
		lines = append(lines, ":"+s.trunk+" - [0:0]")
	}
	lines = append(lines, ":"+name+" - [0:0]")
	for _, m := range s.write(network, want) {
		lines = append(lines, "-A "+name+" "+m.String())
	}
	if len(link) == 0 {
		lines = append(lines, "-A "+s.trunk+" "+xtables.Match{Comment: mark.Comment(network), Target: name}.String())
	}
	if len(jump) == 0 {
		put := "-A " + s.base + " "
		if s.first {
			put = "-I " + s.base + " 1 "
		}
		lines = append(lines, put+xtables.Match{Comment: mark.Word, Target: s.trunk}.String())
	}
	lines = append(lines, deletions(s.trunk, link[min(1, len(link)):])...)
	return append(lines, deletions(s.base, jump[min(1, len(jump)):])...)
}

// removal deletes the network's chain, and the trunk if it has no other.
func (s program) removal(rs xtables.Ruleset, name string) []string {
	link := jumpsTo(rs, s.trunk, name)
	lines := deletions(s.trunk, link)
	if _, ok := rs[name]; ok {
		lines = append(lines, "-F "+name, "-X "+name)
	}
	if trunk, ok := rs[s.trunk]; ok && len(trunk.Rules) == len(link) {
		lines = append(lines, deletions(s.base, jumpsTo(rs, s.base, s.trunk))...)
		lines = append(lines, "-X "+s.trunk)
	}
	return lines
}

func deletions(chain string, rules []xtables.Rule) (lines []string) {
	for _, r := range rules {
		lines = append(lines, strings.Join([]string{"-D", chain, r.Text}, " "))
	}
	return lines
}
