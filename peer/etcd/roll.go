package etcd

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// roll is the list of peers in memory. What one change costs does not grow with the list, except for the copy that the
// caller gets, as long as nobody conflicts with anybody.
type roll struct {
	subnets string // what the keys begin with
	within  []netip.Prefix
	ownKey  string
	ownName string

	entries map[string]*entry
	list    []peer.Peer // the good ones, by create revision
	keys    []string    // of those
	marks   map[mark]int
	bits    [2]int        // length of the ranges of each family; mixed if they differ
	clashes peer.Problems // among the entries
	sick    int           // entries that are no peers by themselves
}

const mixed = -1

// entry is one key.
type entry struct {
	created int64
	lease   flannel.Lease
	broken  *peer.Problem // it cannot be read
	wrong   *peer.Problem // it can, and is no peer
	peer    peer.Peer     // if it is one
}

func newRoll(subnets string) *roll {
	return &roll{subnets: subnets, entries: map[string]*entry{}, list: []peer.Peer{}}
}

// know takes over what is known apart from the keys, and reports whether that changed the list.
func (r *roll) know(within []netip.Prefix, ownKey, ownName string) bool {
	if slices.Equal(within, r.within) && ownKey == r.ownKey && ownName == r.ownName {
		return false
	}
	r.within, r.ownKey, r.ownName = slices.Clone(within), ownKey, ownName
	for key, e := range r.entries {
		e.judge(r, key)
	}
	return r.sift()
}

// reset takes a whole list.
func (r *roll) reset(all []*mvccpb.KeyValue) bool {
	old := r.entries
	r.entries = make(map[string]*entry, len(all))
	for _, kv := range all {
		key := r.key(kv)
		e := read(key, kv)
		if o := old[key]; o != nil && o.broken == nil && e.broken == nil && o.lease == e.lease {
			e.peer, e.wrong = o.peer, o.wrong
		} else {
			e.judge(r, key)
		}
		r.entries[key] = e
	}
	return r.sift()
}

// apply takes what changed, in order.
func (r *roll) apply(events []*clientv3.Event) (changed bool) {
	full := false
	for _, ev := range events {
		key := r.key(ev.Kv)
		var e *entry
		if ev.Type != clientv3.EventTypeDelete {
			e = read(key, ev.Kv)
			e.judge(r, key)
		}
		old := r.entries[key]
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

func (r *roll) key(kv *mvccpb.KeyValue) string {
	return string(kv.Key[min(len(r.subnets), len(kv.Key)):])
}

func read(key string, kv *mvccpb.KeyValue) *entry {
	e := &entry{created: kv.CreateRevision}
	var err error
	if e.lease, err = flannel.ParseKey(key); err == nil {
		e.lease.Attrs, err = flannel.ParseAttrs(kv.Value)
	}
	e.broken = asProblem(key, err)
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

// judge makes the peer of an entry, or says why there is none.
func (e *entry) judge(r *roll, key string) {
	e.peer, e.wrong = peer.Peer{}, nil
	if e.broken != nil || !e.lease.Attrs.Published() {
		return
	}
	p, err := e.lease.Peer("")
	if err != nil {
		e.wrong = asProblem(key, err)
		return
	}
	if key == r.ownKey {
		p.Name = r.ownName
	}
	_, problems, err := peer.Network{Prefixes: r.within, Peers: []peer.Peer{p}}.Sift()
	if bad, _ := problems.Split(); len(bad) > 0 {
		err = bad[0]
	}
	e.peer, e.wrong = p, asProblem(key, err)
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
	return e != nil && e.problem() == nil && e.lease.Attrs.Published()
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
func (r *roll) problems() peer.Problems {
	if r.sick == 0 && len(r.clashes) == 0 {
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
func (r *roll) sift() bool {
	type candidate struct {
		key string
		*entry
	}
	var all []candidate
	r.sick = 0
	for key, e := range r.entries {
		if e.problem() != nil {
			r.sick++
		}
		if e.good() {
			all = append(all, candidate{key, e})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.key, b.key))
	})
	peers := make([]peer.Peer, len(all))
	for i, c := range all {
		peers[i] = c.peer
	}
	net, problems, err := peer.Network{Peers: peers}.Sift()
	r.clashes, _ = problems.Split()
	if err != nil { // too many
		net.Peers, r.clashes = r.list, peer.Problems{asProblem("", err)}
	}
	changed := !slices.EqualFunc(r.list, net.Peers, peer.Peer.Equal)
	r.list, r.keys = net.Peers, make([]string, 0, len(net.Peers))
	for i, c := range all {
		if n := len(r.keys); n < len(r.list) && peers[i].Equal(r.list[n]) {
			r.keys = append(r.keys, c.key)
		}
	}
	r.index()
	return changed
}
