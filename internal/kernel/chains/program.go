//go:build linux

package chains

import (
	"context"
	"errors"
	"fmt"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// byProgram is a store that the iptables programs read and write, whichever packet filter they keep.
type byProgram struct {
	Layout
	ns   *netns.NS
	prog xtables.Programs
}

func (s byProgram) Read(ctx context.Context, network string) (State, error) {
	rs, err := s.prog.Save(ctx, s.ns, s.Table)
	return s.state(rs, network), err
}

func (s byProgram) All(ctx context.Context) (all []Network, err error) {
	rs, err := s.prog.Save(ctx, s.ns, s.Table)
	for _, link := range rs[s.Trunk].Rules {
		if name, ok := mark.Network(link.Comment); ok {
			all = append(all, Network{name, matches(rs[link.Target])})
		}
	}
	return all, err
}

func (s byProgram) state(rs xtables.Ruleset, network string) State {
	name := mark.Chain(network)
	st := State{Rules: matches(rs[name]), jumps: len(rs.Jumps(s.Base, s.Trunk)), links: len(rs.Jumps(s.Trunk, name))}
	_, st.trunk = rs[s.Trunk]
	_, st.Exists = rs[name]
	st.others = len(rs[s.Trunk].Rules) - st.links
	return st
}

func matches(c xtables.Chain) (out []xtables.Match) {
	for _, r := range c.Rules {
		out = append(out, r.Match)
	}
	return out
}

func (s byProgram) Apply(ctx context.Context, network string, change func([]xtables.Match) []xtables.Match) error {
	const tries = 5 // another program may have changed the table between the reading and the writing
	unlock, err := s.ns.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var failed error
	for range tries {
		rs, err := s.prog.Save(ctx, s.ns, s.Table)
		if err != nil {
			return err
		}
		st := s.state(rs, network)
		want := change(st.Rules)
		if st.right(want) {
			return nil
		}
		failed = s.prog.Restore(ctx, s.ns, s.Table, s.script(rs, network, want))
		if ctx.Err() != nil {
			return errors.Join(failed, context.Cause(ctx))
		}
	}
	if failed != nil {
		return failed
	}
	return fmt.Errorf("another program takes it away as soon as it is made: table %s", s.Table)
}

// script is what iptables-restore needs to get from a ruleset to what is wanted. To name a chain in the form of
// iptables-save makes or empties it.
func (s byProgram) script(rs xtables.Ruleset, network string, want []xtables.Match) (lines []string) {
	name := mark.Chain(network)
	link, jump := rs.Jumps(s.Trunk, name), rs.Jumps(s.Base, s.Trunk)
	if len(want) == 0 {
		return s.removal(rs, name)
	}
	if _, ok := rs[s.Trunk]; !ok {
		lines = append(lines, ":"+s.Trunk+" - [0:0]")
	}
	lines = append(lines, ":"+name+" - [0:0]")
	for _, m := range want {
		lines = append(lines, "-A "+name+" "+m.String())
	}
	if len(link) == 0 {
		lines = append(lines, "-A "+s.Trunk+" "+xtables.Match{Comment: mark.Comment(network), Target: name}.String())
	}
	if len(jump) == 0 {
		put := "-A " + s.Base + " "
		if s.First {
			put = "-I " + s.Base + " 1 "
		}
		lines = append(lines, put+xtables.Match{Comment: mark.Word, Target: s.Trunk}.String())
	}
	lines = append(lines, xtables.Deletions(s.Trunk, link[min(1, len(link)):])...)
	return append(lines, xtables.Deletions(s.Base, jump[min(1, len(jump)):])...)
}

// removal deletes the network's chain, and the trunk if it has no other.
func (s byProgram) removal(rs xtables.Ruleset, name string) []string {
	link := rs.Jumps(s.Trunk, name)
	lines := xtables.Deletions(s.Trunk, link)
	if _, ok := rs[name]; ok {
		lines = append(lines, "-F "+name, "-X "+name)
	}
	if trunk, ok := rs[s.Trunk]; ok && len(trunk.Rules) == len(link) {
		lines = append(lines, xtables.Deletions(s.Base, rs.Jumps(s.Base, s.Trunk))...)
		lines = append(lines, "-X "+s.Trunk)
	}
	return lines
}
