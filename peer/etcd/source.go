package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer"
)

var (
	_ peer.Source    = (*Store)(nil)
	_ peer.Registrar = (*Store)(nil)
)

// Watch yields the peers, as [peer.Source] says: all leases that are published, by the revisions in which they were
// created. Leases have no names; a peer's name is its address, except for this node after [Store.Acquire]. As soon as
// [Store.Config] has read the configuration, peers must lie within its networks.
//
// It costs one read of all leases and one watch. A change costs no further call.
func (s *Store) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(yield func([]peer.Peer, error) bool) {
		r := newCache(s.subnets())
		var t teller
		var outage error
		known := false
		for u := range s.follow(ctx, s.subnets(), clientv3.WithPrefix()) {
			s.saw(u.revision)
			changed := r.know(s.known())
			switch {
			case u.err != nil:
				outage = u.err
			case u.whole:
				changed, known, outage = r.reset(u.all) || !known, true, nil
			default:
				changed = r.apply(u.events) || changed
			}
			if !s.tell(r, &t, known, changed, outage, yield) {
				return
			}
		}
	}
}

// tell yields if there is something to tell, and reports whether the caller wants more.
func (s *Store) tell(r *cache, t *teller, known, changed bool, outage error, yield func([]peer.Peer, error) bool) bool {
	if !known {
		err := outage
		if err != nil {
			err = fmt.Errorf("%w; no peers are known yet", err)
		}
		return !t.news(false, err) || yield(nil, err)
	}
	err := cmp.Or(outage, r.unfit)
	if err != nil {
		err = fmt.Errorf("%w; the last list with %d peers is kept", err, len(r.order))
	}
	if problems := r.problems(); len(problems) > 0 {
		err = errors.Join(err, &peer.LeftOut{Where: "etcd keys " + s.subnets(), Problems: problems})
	}
	return !t.news(changed, err) || yield(r.peers(s.spare()), err)
}

// Recycle takes a list that a Watch of this store has yielded, and that nobody looks at any more; a later list is made in its
// memory. Lists of thousands of peers that change every few milliseconds would else be the most of what a program uses.
func (s *Store) Recycle(list []peer.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recycled = list
}

func (s *Store) spare() []peer.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.recycled
	s.recycled = nil
	return list
}

func (s *Store) subnets() string { return s.o.Prefix + "/subnets/" }

func (s *Store) saw(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = max(s.revision, revision)
}

// known are the networks, and this node's key and name.
func (s *Store) known() (within []netip.Prefix, key, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config != nil {
		within = s.config.Prefixes()
	}
	if s.held != nil && !s.lost {
		key, name = s.held.key, s.held.name
	}
	return within, key, name
}
