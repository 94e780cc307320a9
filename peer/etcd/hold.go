package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Publish makes known how this node is reached, as [peer.Registrar] says. The etcd lease of the key stays what it is. It
// waits for the store until ctx is done.
func (s *Store) Publish(ctx context.Context, r peer.Reach) error {
	h := s.holding()
	if h == nil {
		return errors.New("publish in etcd: no ranges are taken: call Acquire first")
	}
	attrs, err := flannel.EncodeReach(r)
	if err != nil {
		return err
	}
	value, err := json.Marshal(attrs)
	if err != nil {
		return err
	}
	key := s.subnets() + h.key
	for h.value != string(value) {
		var done *clientv3.TxnResponse
		err := s.retry(ctx, "publish "+h.key, func(ctx context.Context, c *clientv3.Client) (err error) {
			done, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", h.mod)).
				Then(clientv3.OpPut(key, string(value), clientv3.WithLease(h.lease))).Else(clientv3.OpGet(key)).Commit()
			return err
		})
		if errors.Is(err, rpctypes.ErrLeaseNotFound) { // so is the key
			return s.gone(h)
		}
		if err != nil {
			return err
		}
		if done.Succeeded {
			next := *h
			next.mod, next.value, next.Attrs, next.addrs = done.Header.Revision, string(value), attrs, addrs(attrs)
			s.keep(&next)
			return nil
		}
		if h, err = s.still(h, done.Responses[0].GetResponseRange().Kvs); err != nil {
			return err
		}
		s.keep(h)
	}
	return nil
}

// still is the hold as it is in the store now, or why it is none any more.
func (s *Store) still(h *hold, kvs []*mvccpb.KeyValue) (*hold, error) {
	if len(kvs) == 0 {
		return nil, s.gone(h)
	}
	now := holdOf(s.subnets(), kvs[0])
	bound := now.lease != 0 && now.lease == h.lease
	if !bound && !meet(now.addrs, h.addrs) {
		s.lose(h)
		return nil, fmt.Errorf("etcd key %s%s: %w: they are now those of %s", s.subnets(), h.key, peer.ErrLost, now.Attrs.Addr())
	}
	now.name = h.name
	if len(now.addrs) == 0 {
		now.addrs = h.addrs
	}
	return now, nil
}

func (s *Store) gone(h *hold) error {
	s.lose(h)
	return fmt.Errorf("etcd key %s%s: %w: the key is gone, so they are nobody's; its lease ran out, or it was deleted", s.subnets(), h.key, peer.ErrLost)
}

// Lost keeps this node's lease alive and returns when it is lost, as [peer.Registrar] says. It follows the key: the etcd
// lease that is kept alive is the one that the key is bound to now, and none for a reservation.
func (s *Store) Lost(ctx context.Context) error {
	h := s.holding()
	if h == nil {
		return errors.New("keep the ranges in etcd: none are taken: call Acquire first")
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	bound := make(chan clientv3.LeaseID)
	wg.Go(func() { s.renew(ctx, h.lease, bound) })
	key := h.key
	for u := range s.follow(ctx, s.subnets()+key) {
		kvs := u.all
		switch n := len(u.events); {
		case n > 0 && slices.ContainsFunc(u.events, func(e *clientv3.Event) bool { return e.Type == clientv3.EventTypeDelete }):
			return s.gone(h)
		case n > 0:
			kvs = present(u.events[n-1])
		case !u.whole:
			continue
		}
		before := s.holding()
		if before.key != key {
			return fmt.Errorf("keep the ranges of %s: Acquire took others", key)
		}
		now, err := s.still(before, kvs)
		if err != nil {
			return err
		}
		if now.mod < before.mod { // from before what was published last
			continue
		}
		s.keep(now)
		if now.lease != before.lease {
			s.rebound(ctx, now)
		}
		select {
		case bound <- now.lease:
		case <-ctx.Done():
		}
	}
	return context.Cause(outer)
}

// rebound takes note of another etcd lease. What cannot be done now, the next Acquire does.
func (s *Store) rebound(ctx context.Context, h *hold) {
	_ = s.save(state{Node: h.name, Lease: leaseID(h.lease), Key: h.key})
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	if w, err := s.look(ctx); err == nil {
		_, _ = s.claim(ctx, w, h)
	}
}

// renew keeps an etcd lease alive, at thirds of its time, until another one comes.
func (s *Store) renew(ctx context.Context, id clientv3.LeaseID, bound <-chan clientv3.LeaseID) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-bound:
			if now != id {
				id = now
				next.Reset(0)
			}
		case <-next.C:
			if id != 0 {
				next.Reset(s.renewed(ctx, id))
			}
		}
	}
}

// renewed renews once and returns when to do it again.
func (s *Store) renewed(ctx context.Context, id clientv3.LeaseID) time.Duration {
	var ttl time.Duration
	err := s.call(ctx, "renew the lease", func(ctx context.Context, c *clientv3.Client) (err error) {
		ttl, err = keepAlive(ctx, c, id)
		return err
	})
	if err != nil { // if it ran out, the key is gone, and its follower knows
		return min(s.o.TTL/10, lastPause)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && s.held.lease == id {
		s.expires = time.Now().Add(ttl)
	}
	return ttl / 3
}

// keepAlive renews a lease once, without the retries of the client, which do not pause.
func keepAlive(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)})
	}
	var r *pb.LeaseKeepAliveResponse
	if err == nil {
		r, err = stream.Recv()
	}
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	if r.TTL <= 0 {
		return 0, rpctypes.ErrLeaseNotFound
	}
	return time.Duration(r.TTL) * time.Second, nil
}
