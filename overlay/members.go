//go:build linux

package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/peer"
)

// claims are the ranges of the accepted peers, none of which overlap, in order.
type claims []claim

type claim struct {
	r     netip.Prefix
	owner string // name of the peer
}

func byRange(a, b claim) int {
	if c := a.r.Addr().Compare(b.r.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.r.Bits(), b.r.Bits())
}

// at finds the place of a range, and the claim that it overlaps with.
func (c claims) at(r netip.Prefix) (place int, clash *claim) {
	place, _ = slices.BinarySearchFunc(c, claim{r: r}, byRange)
	for _, i := range [...]int{place - 1, place} {
		if i >= 0 && i < len(c) && c[i].r.Overlaps(r) {
			return place, &c[i]
		}
	}
	return place, nil
}

// add takes a range that overlaps with none.
func (c *claims) add(r netip.Prefix, owner string) {
	i, _ := c.at(r)
	*c = slices.Insert(*c, i, claim{r, owner})
}

func (c *claims) remove(r netip.Prefix) {
	if i, found := slices.BinarySearchFunc(*c, claim{r: r}, byRange); found {
		*c = slices.Delete(*c, i, i+1)
	}
}

// disjoint reports whether no two ranges overlap; it sorts them.
func (c claims) disjoint() bool {
	order.By(c, byRange)
	for i := 1; i < len(c); i++ {
		if c[i-1].r.Overlaps(c[i].r) {
			return false
		}
	}
	return true
}

// members are the peers of the last list, and who of them has which range.
type members struct {
	self    string                  // name of this node, which is left out
	list    []peer.Peer             // nil before the first
	claims  claims                  // of the accepted peers
	held    map[netip.Prefix]string // who had which range before the last list
	refused map[int]error           // why peers, by place, may not have their ranges
}

// take copies a list; the caller may go on with his. Who holds his ranges already comes first in line.
func (m *members) take(peers []peer.Peer) {
	pods := 0
	for _, p := range peers {
		pods += len(p.Pods)
	}
	all := make([]netip.Prefix, 0, pods)
	list := make([]peer.Peer, 0, len(peers))
	for _, p := range peers {
		if p.Name == m.self {
			continue
		}
		from := len(all)
		all = append(all, p.Pods...)
		p.Pods = all[from:len(all):len(all)]
		list = append(list, p)
	}
	m.held = nil
	if m.list != nil {
		m.held = make(map[netip.Prefix]string, len(m.claims))
		for _, c := range m.claims {
			m.held[c.r] = c.owner
		}
	}
	m.list = list
}

// maxSteps is up to how many changed peers are worth a step; beyond it, a dump costs less.
const maxSteps = 64

// change is one changed peer: at is its place in the list as it was.
type change struct {
	at       int
	old, new *peer.Peer // nil: joined, left
}

// difference compares a list with the last one, without a look at the kernel. It gives up, with false, where too much is
// different or the order is another.
func (m *members) difference(peers []peer.Peer) ([]change, bool) {
	var steps []change
	i, self := 0, m.self
	for j := 0; j < len(peers); j++ {
		p := &peers[j]
		if p.Name == self {
			continue
		}
		if i < len(m.list) && m.list[i].Equal(*p) {
			i++
			continue
		}
		if len(steps) >= maxSteps {
			return nil, false
		}
		if i < len(m.list) && m.list[i].Name == p.Name {
			steps = append(steps, change{at: i, old: &m.list[i], new: p})
			i++
			continue
		}
		// Peers left before this one, or this one joined.
		ahead := slices.IndexFunc(m.list[i:min(i+maxSteps, len(m.list))], func(q peer.Peer) bool { return q.Name == p.Name })
		for ; ahead > 0; ahead-- {
			steps = append(steps, change{at: i, old: &m.list[i]})
			i++
		}
		if ahead == 0 {
			j--
			continue
		}
		steps = append(steps, change{at: i, new: p})
	}
	for ; i < len(m.list); i++ {
		if len(steps) >= maxSteps {
			return nil, false
		}
		steps = append(steps, change{at: i, old: &m.list[i]})
	}
	return steps, len(steps) <= maxSteps
}

// reclaim makes the claims those of the changed peers; undo takes that back. It reports false if two would overlap.
func (m *members) reclaim(steps []change) (undo func(), ok bool) {
	var added, removed []claim
	undo = func() {
		for _, c := range added {
			m.claims.remove(c.r)
		}
		for _, c := range removed {
			m.claims.add(c.r, c.owner)
		}
	}
	for _, s := range steps {
		for _, r := range podsOf(s.old) {
			m.claims.remove(r)
			removed = append(removed, claim{r, s.old.Name})
		}
	}
	for _, s := range steps {
		for _, r := range podsOf(s.new) {
			if _, clash := m.claims.at(r); clash != nil {
				return undo, false
			}
			m.claims.add(r, s.new.Name)
			added = append(added, claim{r, s.new.Name})
		}
	}
	return undo, true
}

func podsOf(p *peer.Peer) []netip.Prefix {
	if p == nil {
		return nil
	}
	return p.Pods
}

// relist makes the list the one that was asked for, from the end so that places stay true.
func (m *members) relist(steps []change) {
	for _, s := range slices.Backward(steps) {
		var p peer.Peer
		if s.new != nil {
			p = *s.new
			p.Pods = slices.Clone(p.Pods)
		}
		switch {
		case s.new == nil:
			m.list = slices.Delete(m.list, s.at, s.at+1)
		case s.old == nil:
			m.list = slices.Insert(m.list, s.at, p)
		default:
			m.list[s.at] = p
		}
	}
}

// validate finds the peers whose ranges overlap with those of another one. Of two the one stays that was there before: in the last list,
// or, in a new process, in the kernel, as stood tells; else the one that stands first in the list.
func (m *members) validate(stood func(*peer.Peer) bool) {
	m.claims = make(claims, 0, 2*len(m.list))
	for _, p := range m.list {
		for _, r := range p.Pods {
			m.claims = append(m.claims, claim{r, p.Name})
		}
	}
	m.refused = nil
	if m.claims.disjoint() {
		return
	}
	order := make([]int, len(m.list))
	for i := range order {
		order[i] = i
	}
	place := func(i int) int {
		p := &m.list[i]
		if m.held == nil && stood(p) || slices.ContainsFunc(p.Pods, func(r netip.Prefix) bool { return m.held[r] == p.Name }) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int) int { return place(a) - place(b) })
	bad := map[int]error{}
	m.refused = bad
	m.claims = m.claims[:0]
	for _, i := range order {
		p := m.list[i]
		for _, r := range p.Pods {
			if _, clash := m.claims.at(r); clash != nil && clash.owner != p.Name {
				bad[i] = fmt.Errorf("its range %s overlaps %s of peer %q, which was there before: give every peer ranges of its own", r, clash.r, clash.owner)
				break
			}
		}
		if bad[i] != nil {
			continue
		}
		for _, r := range p.Pods {
			if _, clash := m.claims.at(r); clash == nil {
				m.claims.add(r, p.Name)
			}
		}
	}
}

func (m *members) ownerOf(r netip.Prefix) string {
	for _, p := range m.list {
		if slices.ContainsFunc(p.Pods, func(q netip.Prefix) bool { return q.Overlaps(r) }) {
			return p.Name
		}
	}
	return ""
}

func (m *members) endOf(a netip.Addr) string {
	for _, p := range m.list {
		if p.V4.Addr == a || p.V6.Addr == a {
			return p.Name
		}
	}
	return ""
}
