package peer

import (
	"errors"
	"net/netip"
	"slices"
)

// The most that a list may hold. What is beyond is refused as a whole: no machine has so many routes for pods, so the
// list is another's or damaged.
const (
	MaxPeers    = 1 << 16
	MaxPrefixes = 64 // of a network, and of one peer
)

// Network is a pod network: the prefixes that all pods are in, and the nodes.
type Network struct {
	Prefixes []netip.Prefix // of either family; empty: the peers' ranges may be anywhere
	Peers    []Peer
}

// Validate returns all that is wrong, joined, and nil if nothing is.
func (n Network) Validate() error {
	_, problems, err := n.Sift()
	return errors.Join(err, problems.Err())
}

// Sift parts the good peers from the others: it returns the network with the good ones, in their order, and what is wrong
// with the rest. A bad peer never costs another one its place: of two that cannot both be there the earlier stays, even
// where a third, which is not good itself, disputes it. So a caller who puts known peers first keeps them.
//
// What is wrong with the prefixes, or a list that is too long, is the error: there is no good network then, and the one
// returned is empty. The problems of the peers are returned all the same.
func (n Network) Sift() (Network, Problems, error) {
	entries := make([]entry, len(n.Peers))
	for i, p := range n.Peers {
		entries[i].Peer = p
	}
	return sift(n.Prefixes, entries)
}

// entry is a peer on trial.
type entry struct {
	Peer
	problems Problems // known before; other than warnings they already cost it its place
}

func sift(prefixes []netip.Prefix, entries []entry) (Network, Problems, error) {
	if len(entries) > MaxPeers {
		return Network{}, nil, tooMany("peers", MaxPeers, "split the network")
	}
	wrong := checkPrefixes(prefixes)
	within := prefixes
	if len(wrong) > 0 {
		within = nil
	}
	c := newValidator(entries)
	good := Network{Prefixes: prefixes, Peers: make([]Peer, 0, len(entries))}
	var problems Problems
	for i, e := range entries {
		found := e.judge(within)
		found = append(found, c.conflicts(i)...)
		for _, p := range found {
			if p.Peer == "" {
				p.Peer = c.party(i)
			}
		}
		problems = append(problems, found...)
		if bad, _ := found.Split(); len(bad) == 0 {
			c.accept(i)
			good.Peers = append(good.Peers, e.Peer)
		}
	}
	if len(wrong) > 0 {
		return Network{}, problems, wrong
	}
	return good, problems, nil
}

// judge is all that is wrong with a peer whoever the others are. What could not be read is not missing as well.
func (e entry) judge(within []netip.Prefix) Problems {
	found := slices.Clip(e.problems)
	for _, p := range checkPeer(e.Peer, within) {
		unread := func(q *Problem) bool { return !q.Warning && (q.Key == p.Key || q.Key == wholeValue) }
		if p.Value != "" || !slices.ContainsFunc(e.problems, unread) {
			found = append(found, p)
		}
	}
	return found
}

func checkPrefixes(prefixes []netip.Prefix) Problems {
	if len(prefixes) > MaxPrefixes {
		return Problems{tooMany("network", MaxPrefixes, "state fewer, larger ones")}
	}
	var wrong Problems
	for i, p := range prefixes {
		if w := checkRange("network", p); w != nil {
			wrong = append(wrong, w)
			continue
		}
		for _, q := range prefixes[:i] {
			if p.Overlaps(q) {
				wrong = append(wrong, problem("network", p.String(), "overlaps network "+q.String(), "state the larger one alone"))
			}
		}
	}
	return wrong
}
