package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// cache is the list of peers in memory. What one change costs does not grow with the list, except for the copy that the
// caller gets, as long as nobody conflicts with anybody.
type cache struct {
	subnets string // what the keys begin with
	within  []netip.Prefix
	ownKey  string
	ownName string

	entries map[string]*entry
	order   []*entry // the good ones, by create revision
	marks   map[mark]int32
	seed    maphash.Seed
	traits  []trait       // of the peer that was looked at last
	bits    [2]int        // length of the ranges of each family; mixed if they differ
	clashes peer.Problems // among the entries
	invalid int           // entries that are no peers by themselves
	unfit   error         // why there is no list of them; the last one stays
}

const mixed = -1

// entry is one key. It is not changed, but replaced.
type entry struct {
	key       string
	created   int64
	published bool
	broken    *peer.Problem // it cannot be read
	wrong     *peer.Problem // it can, and is no peer
	peer      peer.Peer     // if it is published and not broken
}

func newCache(subnets string) *cache {
	return &cache{subnets: subnets, entries: map[string]*entry{}, seed: maphash.MakeSeed()}
}

// peers is the list, for the caller to keep, in the memory of one that nobody needs any more if it has room there.
func (r *cache) peers(spare []peer.Peer) []peer.Peer {
	const more = 64
	all := spare
	if n := len(r.order); cap(all) < n || all == nil {
		all = make([]peer.Peer, 0, n+more)
	}
	all = all[:len(r.order)]
	for i, e := range r.order {
		all[i] = e.peer
	}
	clear(all[len(all):cap(all)])
	return all
}

// know takes over what is known apart from the keys, and reports whether that changed the list.
func (r *cache) know(within []netip.Prefix, ownKey, ownName string) (changed bool) {
	if slices.Equal(within, r.within) && ownKey == r.ownKey && ownName == r.ownName {
		return false
	}
	r.within, r.ownKey, r.ownName = slices.Clone(within), ownKey, ownName
	for key, e := range r.entries {
		name, wrong := r.judge(e)
		if name == e.peer.Name && text(wrong) == text(e.wrong) {
			continue
		}
		now := *e
		now.peer.Name, now.wrong = name, wrong
		r.entries[key] = &now
		changed = true
	}
	return changed && r.sift()
}

// reset takes a whole list.
func (r *cache) reset(all []*mvccpb.KeyValue) bool {
	r.entries = make(map[string]*entry, len(all))
	for _, kv := range all {
		e := r.read(kv)
		r.entries[e.key] = e
	}
	return r.sift()
}

// apply takes what changed, in order.
func (r *cache) apply(events []*clientv3.Event) (changed bool) {
	full := false
	for _, ev := range events {
		key := r.key(ev.Kv)
		var e *entry
		if ev.Type != clientv3.EventTypeDelete {
			e = r.read(ev.Kv)
		}
		old := r.entries[key]
		if old.good() && same(old, e) {
			continue
		}
		if e == nil {
			delete(r.entries, key)
		} else {
			r.entries[key] = e
		}
		if same(old, e) || full {
			continue
		}
		if full = len(r.clashes) > 0 || !r.step(key, old, e); !full {
			changed = true
		}
	}
	if full {
		return r.sift() || changed
	}
	return changed
}

func (r *cache) key(kv *mvccpb.KeyValue) string {
	return string(kv.Key[min(len(r.subnets), len(kv.Key)):])
}

// read makes the entry of a key.
func (r *cache) read(kv *mvccpb.KeyValue) *entry {
	e := &entry{key: r.key(kv), created: kv.CreateRevision}
	lease, err := flannel.ParseKey(e.key)
	if err == nil {
		lease.Attrs, err = flannel.ParseAttrs(kv.Value)
	}
	if e.published = err == nil && lease.Attrs.Published(); e.published {
		e.peer, err = lease.Peer("")
	}
	e.broken = asProblem(e.key, err)
	e.peer.Name, e.wrong = r.judge(e)
	return e
}

// asProblem is an error about a key in the form of problems.
func asProblem(key string, err error) *peer.Problem {
	if err == nil {
		return nil
	}
	var p *peer.Problem
	if !errors.As(err, &p) {
		p = &peer.Problem{Key: "value", Reason: "is wrong: " + err.Error(), Remedy: "delete the key"}
	}
	p.Peer = "lease " + key
	return p
}

// judge says what the peer of an entry is called, and what is wrong with it.
func (r *cache) judge(e *entry) (name string, wrong *peer.Problem) {
	if e.broken != nil || !e.published {
		return "", nil
	}
	p := e.peer
	switch at := (flannel.Attrs{PublicIP: p.V4.Addr, PublicIPv6: p.V6.Addr}).Addr().String(); {
	case e.key == r.ownKey:
		p.Name = r.ownName
	case p.Name != at: // it was this node's
		p.Name = at
	}
	if bad, _ := p.Check(r.within).Split(); len(bad) > 0 {
		wrong = asProblem(e.key, bad[0])
	}
	return p.Name, wrong
}

// problem is what is wrong with an entry by itself.
func (e *entry) problem() *peer.Problem {
	if e == nil {
		return nil
	}
	return cmp.Or(e.broken, e.wrong)
}

// good reports whether an entry is a peer.
func (e *entry) good() bool {
	return e != nil && e.problem() == nil && e.published
}

// same reports whether the list and its problems do not change by the new entry.
func same(old, now *entry) bool {
	if old.good() && now.good() {
		return old.created == now.created && old.peer.Equal(now.peer)
	}
	return old.good() == now.good() && text(old.problem()) == text(now.problem())
}

func text(p *peer.Problem) string {
	if p == nil {
		return ""
	}
	return p.Error()
}

// problems are all that is wrong, in the order of the keys.
func (r *cache) problems() peer.Problems {
	if r.invalid == 0 && len(r.clashes) == 0 {
		return nil
	}
	var all peer.Problems
	for _, e := range r.entries {
		if p := e.problem(); p != nil {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *peer.Problem) int { return cmp.Compare(a.Peer, b.Peer) })
	return append(all, r.clashes...)
}

// sift makes the list anew, and reports whether it changed.
func (r *cache) sift() bool {
	all := make([]*entry, 0, len(r.entries))
	r.invalid = 0
	for _, e := range r.entries {
		if e.problem() != nil {
			r.invalid++
		}
		if e.good() {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.key, b.key))
	})
	was := r.order
	if r.order, r.clashes, r.unfit = all, nil, nil; len(all) > peer.MaxPeers || !r.index() {
		r.order, r.clashes = r.part(all, was)
		r.index()
	}
	return !slices.EqualFunc(was, r.order, func(a, b *entry) bool { return a == b || a.peer.Equal(b.peer) })
}

// part are the entries that can be on a list together, and what is wrong with the others. Where they are too many it is the
// list that was.
func (r *cache) part(all, was []*entry) ([]*entry, peer.Problems) {
	peers := make([]peer.Peer, len(all))
	for i, e := range all {
		peers[i] = e.peer
	}
	net, problems, err := peer.Network{Peers: peers}.Sift()
	if err != nil {
		r.unfit = fmt.Errorf("etcd keys %s: %w", r.subnets, err)
		return was, nil
	}
	clashes, _ := problems.Split()
	good := make([]*entry, 0, len(net.Peers))
	for i, e := range all {
		if n := len(good); n < len(net.Peers) && peers[i].Equal(net.Peers[n]) {
			good = append(good, e)
		}
	}
	return good, clashes
}
