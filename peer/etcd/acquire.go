package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// hold is this node's lease as it was seen last. It is not changed, but replaced.
type hold struct {
	name   string // of the node
	key    string // below subnets
	lease  clientv3.LeaseID
	mod    int64
	create int64
	value  string
	flannel.Lease
	addrs []netip.Addr // by which the node tells its lease from another's
}

// Acquire takes ranges, as [peer.Registrar] says: one of each family that the configuration enables. A lease is this
// node's if it is bound to the etcd lease that the node remembers, or has one of its addresses; so a node that ran flanneld
// keeps its ranges. The lease that is made has only the addresses in it, which no other node takes for a peer, until
// [Store.Publish].
//
// A lease of this node that does not fit the configuration (any more) is replaced in one transaction; a reservation is not,
// but is an error.
func (s *Store) Acquire(ctx context.Context, want peer.Peer) (peer.Peer, error) {
	p, err := s.acquire(ctx, want)
	if err != nil {
		return peer.Peer{}, fmt.Errorf("take ranges for node %q: %w", want.Name, err)
	}
	return p, nil
}

func (s *Store) acquire(ctx context.Context, want peer.Peer) (peer.Peer, error) {
	attrs := flannel.Attrs{PublicIP: want.V4.Addr, PublicIPv6: want.V6.Addr}
	if want.Name == "" || !attrs.Addr().IsValid() {
		return peer.Peer{}, errors.New("its name and one address at least have to be stated")
	}
	config, err := s.Config(ctx)
	if err != nil {
		return peer.Peer{}, err
	}
	for {
		h, err := s.try(ctx, config, want, attrs)
		if err != nil {
			return peer.Peer{}, err
		}
		if h != nil {
			s.keep(h)
			return h.peer(), nil
		}
		// Another one was faster.
		if !sleep(ctx, time.Duration(1+rand.IntN(20))*time.Millisecond) {
			return peer.Peer{}, context.Cause(ctx)
		}
	}
}

// try returns the hold, or nil if another node was faster.
func (s *Store) try(ctx context.Context, config flannel.Config, want peer.Peer, attrs flannel.Attrs) (*hold, error) {
	st := s.load(want.Name)
	w, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	own := w.own(st, attrs)
	if own != nil && fits(config, own.Lease) && w.rival(own) == "" {
		own.name = want.Name
		if st.Lease, st.Key = leaseID(own.lease), own.key; own.lease == 0 {
			st.Lease = 0
		}
		if err := s.save(st); err != nil {
			return nil, err
		}
		if ok, err := s.claim(ctx, w, own); !ok || err != nil {
			return nil, err
		}
		return own, nil
	}
	preferred := slices.Clone(want.Pods)
	if earlier, err := flannel.ParseKey(st.Key); err == nil {
		preferred = append(preferred, earlier.Pods()...)
	}
	if own != nil {
		if own.lease == 0 {
			return nil, fmt.Errorf("its reservation %s does not fit the configuration, or overlaps an older lease: delete it, or change the configuration", own.key)
		}
		preferred = append(preferred, own.Pods()...)
	}
	l, err := choose(config, want.Name, preferred, w.taken(own))
	if err != nil {
		return nil, err
	}
	l.Attrs = attrs
	return s.take(ctx, w, own, l, st)
}

// take writes a new lease in place of an old one, which may be nil.
func (s *Store) take(ctx context.Context, w *snapshot, old *hold, l flannel.Lease, st state) (*hold, error) {
	value, err := json.Marshal(l.Attrs)
	if err != nil {
		return nil, err
	}
	if err := s.grant(ctx, &st); err != nil {
		return nil, err
	}
	h := &hold{name: st.Node, key: l.Key(), lease: clientv3.LeaseID(st.Lease), value: string(value), Lease: l, addrs: addrs(l.Attrs)}
	bound := clientv3.WithLease(h.lease)
	key := s.subnets() + h.key
	when := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
	then := []clientv3.Op{clientv3.OpPut(key, h.value, bound)}
	if old != nil {
		when = append(when, clientv3.Compare(clientv3.ModRevision(s.subnets()+old.key), "=", old.mod))
		then = append(then, clientv3.OpDelete(s.subnets()+old.key))
	}
	cmps, ops := w.claims(s, h, old)
	when, then = append(when, cmps...), append(then, ops...)
	var done *clientv3.TxnResponse
	err = s.retry(ctx, "take "+h.key, func(ctx context.Context, c *clientv3.Client) (err error) {
		done, err = c.Txn(ctx).If(when...).Then(then...).Commit()
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) || err == nil && !done.Succeeded {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h.mod, h.create = done.Header.Revision, done.Header.Revision
	st.Key = h.key
	if err := s.save(st); err != nil {
		return nil, err
	}
	return s.confirm(ctx, w, h)
}

// confirm looks for leases that were made after w was read: flanneld knows no claims. It returns nil if an older lease is in
// the way of this one, which is given back then.
func (s *Store) confirm(ctx context.Context, w *snapshot, h *hold) (*hold, error) {
	w, err := s.since(ctx, w.revision)
	if err != nil {
		return nil, err
	}
	if w.rival(h) == "" {
		return h, nil
	}
	key := s.subnets() + h.key
	return nil, s.retry(ctx, "give back "+h.key, func(ctx context.Context, c *clientv3.Client) error {
		then := []clientv3.Op{clientv3.OpDelete(key)}
		for _, r := range h.Pods() {
			then = append(then, clientv3.OpDelete(s.claimKey(r)))
		}
		_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", h.mod)).Then(then...).Commit()
		return err
	})
}

// grant makes the node's etcd lease, or finds it made. The id is written down before, so that no crash leaves a lease
// that nobody knows.
func (s *Store) grant(ctx context.Context, st *state) error {
	if st.Lease == 0 {
		st.Lease = newLeaseID()
		if err := s.save(*st); err != nil {
			return err
		}
	}
	return s.retry(ctx, "make a lease", func(ctx context.Context, c *clientv3.Client) error {
		for {
			_, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(st.Lease), TTL: int64(s.o.TTL / time.Second)})
			if err = rpctypes.Error(err); err == nil || !errors.Is(err, rpctypes.ErrLeaseExist) {
				return err
			}
			if _, err = keepAlive(ctx, c, clientv3.LeaseID(st.Lease)); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
		}
	})
}

// keep makes a hold the one that counts.
func (s *Store) keep(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || s.held.key != h.key || s.held.name != h.name || s.lost {
		defer s.woke()
	}
	if s.held == nil || s.held.lease != h.lease {
		s.expires = time.Time{}
	}
	s.held, s.lost = h, false
}

// lose is the opposite of keep.
func (s *Store) lose(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && s.held.key == h.key && !s.lost {
		s.lost = true
		s.woke()
	}
}

func (s *Store) holding() *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// peer is the node as it is stored.
func (h *hold) peer() peer.Peer {
	p := peer.Peer{Name: h.name, Pods: h.Pods()}
	r, err := h.Attrs.Reach()
	if err != nil {
		r = peer.Reach{V4: peer.Endpoint{Addr: h.Attrs.PublicIP}, V6: peer.Endpoint{Addr: h.Attrs.PublicIPv6}}
	}
	p.Reach = r
	return p
}

func addrs(a flannel.Attrs) []netip.Addr {
	var all []netip.Addr
	for _, addr := range [...]netip.Addr{a.PublicIP, a.PublicIPv6} {
		if addr.IsValid() {
			all = append(all, addr)
		}
	}
	return all
}

// holdOf is a key as a hold, or nil if it is no lease.
func holdOf(subnets string, kv *mvccpb.KeyValue) *hold {
	h := &hold{key: string(kv.Key[len(subnets):]), lease: clientv3.LeaseID(kv.Lease), mod: kv.ModRevision, create: kv.CreateRevision, value: string(kv.Value)}
	var err error
	if h.Lease, err = flannel.ParseKey(h.key); err != nil {
		return nil
	}
	if a, err := flannel.ParseAttrs(kv.Value); err == nil { // the ranges are taken, whatever is in the value
		h.Attrs, h.addrs = a, addrs(a)
	}
	return h
}

// fits reports whether a lease is one that the configuration gives out.
func fits(c flannel.Config, l flannel.Lease) bool {
	four, six := c.Part(inet.IPv4), c.Part(inet.IPv6)
	return (four.Count() == 0 && !l.Subnet.IsValid() || four.Contains(l.Subnet)) &&
		(six.Count() == 0 && !l.IPv6Subnet.IsValid() || six.Contains(l.IPv6Subnet))
}
