//go:build linux

package agent

import (
	"maps"
	"slices"

	"github.com/cniblocks/cniblocks/peer"
)

// mostLines is how many lines of a kind one change writes to the log.
const mostLines = 10

// leaveOut tells of the entries of the source that are not on its list.
func (r *runner) leaveOut(out peer.Problems) {
	var said []string
	byKey := map[string]int{}
	bad, warnings := out.Split()
	for _, p := range bad {
		said = append(said, p.Error())
		byKey[p.Key]++
	}
	r.news(r.out, said, "an entry of the source is left out", "an entry of the source is no longer left out")
	r.out = said
	var warned []string
	for _, p := range warnings {
		warned = append(warned, p.Error())
	}
	r.news(r.warned, warned, "an entry of the source may not be meant so", "")
	r.warned = warned
	r.st.with(func() { r.st.out, r.st.outByKey = said[:min(len(said), mostTold)], byKey })
}

// news logs what is said now and was not before, and what is said no more.
func (c *core) news(was, now []string, begins, ends string) {
	if slices.Equal(was, now) {
		return
	}
	before, after := map[string]bool{}, map[string]bool{}
	for _, s := range was {
		before[s] = true
	}
	for _, s := range now {
		after[s] = true
	}
	some := func(msg string, all []string, known map[string]bool) {
		fresh := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return known[s] })
		for _, s := range fresh[:min(len(fresh), mostLines)] {
			c.log.Warn(msg, "why", s)
		}
		if more := len(fresh) - mostLines; more > 0 {
			c.log.Warn(msg+", and more", "more", more)
		}
	}
	some(begins, now, before)
	if ends != "" {
		some(ends, was, after)
	}
}

// compare logs and counts who has joined and left between two lists, of which the earlier one may be nil. This node does
// neither.
func (c *core) compare(was, now []peer.Peer) {
	if was == nil {
		return
	}
	for len(was) > 0 && len(now) > 0 && was[0].Name == now[0].Name {
		was, now = was[1:], now[1:]
	}
	for len(was) > 0 && len(now) > 0 && was[len(was)-1].Name == now[len(now)-1].Name {
		was, now = was[:len(was)-1], now[:len(now)-1]
	}
	left := make(map[string]*peer.Peer, len(was))
	for i := range was {
		if !c.isThis(&was[i]) {
			left[was[i].Name] = &was[i]
		}
	}
	var joined []*peer.Peer
	for i := range now {
		if p := &now[i]; left[p.Name] != nil {
			delete(left, p.Name)
		} else if !c.isThis(p) {
			joined = append(joined, p)
		}
	}
	c.st.joins.Add(int64(len(joined)))
	c.st.leaves.Add(int64(len(left)))
	gone := slices.Collect(maps.Values(left))
	for msg, all := range map[string][]*peer.Peer{"a peer has joined": joined, "a peer has left": gone} {
		for _, p := range all[:min(len(all), mostLines)] {
			c.log.Info(msg, "peer", p.Name, "ranges", p.Pods)
		}
		if more := len(all) - mostLines; more > 0 {
			c.log.Info(msg+", and more", "more", more)
		}
	}
}

// isThis reports whether a peer is this node, which a store without names may not know by its name yet.
func (c *core) isThis(p *peer.Peer) bool {
	return p.Name == c.Name || p.Name == c.stated.Name || c.self != nil && c.mine(p) ||
		p.V4.Addr.IsValid() && p.V4.Addr == c.at[0] || p.V6.Addr.IsValid() && p.V6.Addr == c.at[1]
}
