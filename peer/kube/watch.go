package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/cniblocks/cniblocks/peer"
)

// Watch yields the nodes that take part, as [peer.Source] says: those whose annotations say so. A Node without ranges, or
// one that has published nothing, is not there yet; one whose annotations are wrong is reported with its name and the
// annotation, and left out.
//
// While the API server is away, refuses, or has no token that is valid, the last good list stays. What happened meanwhile
// is caught up with by resuming the watch or, where that is too old, by a new list: a Node that is gone then is gone here.
func (s *Store) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(yield func([]peer.Peer, error) bool) {
		v := newView(s.member, member.equal)
		defer s.client.start(ctx, fields.Everything(), v)()
		l := list{server: s.client.server}
		for {
			select {
			case <-ctx.Done():
				return
			case <-v.changed:
			}
			if s.update(&l, v) && !yield(slices.Clone(l.peers), l.err) {
				return
			}
		}
	}
}

// member is what a Node says of itself.
type member struct {
	in      bool // it takes part
	peer    peer.Peer
	problem *peer.Problem // of a node that takes part and cannot be used
}

func (m member) equal(o member) bool {
	same := m.problem == nil && o.problem == nil || m.problem != nil && o.problem != nil && *m.problem == *o.problem
	return m.in == o.in && same && m.peer.Equal(o.peer)
}

func (s *Store) member(n *corev1.Node) member {
	ranges := s.wanted(podCIDRs(n))
	if !s.names.IsManaged(n.Annotations) || len(ranges) == 0 {
		return member{}
	}
	l, err := s.names.Lease(n.Annotations, ranges)
	if err == nil && !l.Attrs.Published() {
		return member{}
	}
	var p peer.Peer
	if err == nil {
		p, err = l.Peer(n.Name)
	}
	if err != nil {
		return member{in: true, problem: s.inAnnotations(n.Name, err)}
	}
	return member{in: true, peer: p}
}

// inAnnotations gives a problem of a lease the names of the node and of the annotation that it stands in.
func (s *Store) inAnnotations(node string, err error) *peer.Problem {
	q := peer.Problem{Key: "annotations", Reason: "are wrong: " + err.Error(), Remedy: "remove them"}
	if p := (*peer.Problem)(nil); errors.As(err, &p) {
		q = *p
	}
	q.Peer = fmt.Sprintf("node %q", node)
	for key, name := range map[string]string{
		"BackendType": s.names.BackendType, "BackendData": s.names.BackendData, "BackendV6Data": s.names.BackendV6Data,
	} {
		if rest, ok := cutKey(q.Key, key); ok {
			q.Key = "annotation " + name + rest
		}
	}
	return &q
}

// cutKey takes a key off a path such as BackendData.VtepMAC.
func cutKey(path, key string) (rest string, ok bool) {
	if len(path) < len(key) || path[:len(key)] != key || len(path) > len(key) && path[len(key)] != '.' {
		return "", false
	}
	return path[len(key):], true
}

// list is what a watch has told last.
type list struct {
	server string
	peers  []peer.Peer // nil if nothing is known
	err    error
	told   bool
}

// update brings the list up to date and reports whether there is something to tell.
func (s *Store) update(l *list, v *view[member]) bool {
	known, members, trouble := v.snapshot()
	peers, found := l.peers, error(nil)
	if known {
		peers, found = s.sift(l.peers, members)
	}
	var err error
	switch {
	case trouble != nil && peers == nil:
		err = fmt.Errorf("nodes of %s: %w; no peers are known yet", l.server, trouble)
	case trouble != nil:
		err = fmt.Errorf("nodes of %s: %w; the last good list with %d peers is kept", l.server, trouble, len(peers))
	}
	err = errors.Join(err, found)
	if peers == nil && err == nil {
		return false
	}
	news := !l.told || fmt.Sprint(err) != fmt.Sprint(l.err) || (peers == nil) != (l.peers == nil) ||
		!slices.EqualFunc(peers, l.peers, peer.Peer.Equal)
	l.peers, l.err, l.told = peers, err, true
	return news
}

// sift makes a list that is valid. Who was in the last one stays if a newcomer disputes its place.
func (s *Store) sift(last []peer.Peer, members map[string]member) ([]peer.Peer, error) {
	old := make(map[string]bool, len(last))
	for _, p := range last {
		old[p.Name] = true
	}
	rank := func(name string) int {
		if old[name] {
			return 0
		}
		return 1
	}
	names := slices.SortedFunc(maps.Keys(members), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	all := make([]peer.Peer, 0, len(names))
	var out peer.Problems
	for _, name := range names {
		switch m := members[name]; {
		case !m.in:
		case m.problem != nil:
			out = append(out, m.problem)
		default:
			all = append(all, m.peer)
		}
	}
	good, problems, err := peer.Network{Prefixes: s.config.Prefixes(), Peers: all}.Sift()
	where := "nodes of " + s.client.server
	if err != nil {
		err = fmt.Errorf("%s: %w", where, err)
		good.Peers = last
	}
	if out = append(out, problems...); len(out) > 0 {
		err = errors.Join(err, &peer.LeftOut{Where: where, Problems: out})
	}
	return good.Peers, err
}
