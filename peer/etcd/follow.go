package etcd

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
)

// update is what is new about the keys that are followed: one of these.
type update struct {
	all      []*mvccpb.KeyValue // as they are now, if whole
	whole    bool
	events   []*clientv3.Event // since the last update
	err      error             // the store cannot be read
	revision int64
}

// follow reads the keys once and then yields what changes, for as long as ctx lasts. Whenever something may have been
// missed, for one after every outage, it reads all of them again. An update without anything in it says that Acquire or
// Config changed what is known. What comes while the caller is busy is yielded as one.
func (s *Store) follow(ctx context.Context, key string, opts ...clientv3.OpOption) iter.Seq[update] {
	return func(yield func(update) bool) {
		pause := firstPause
		for ctx.Err() == nil {
			begin := time.Now()
			more, err := s.round(ctx, key, opts, yield)
			if ctx.Err() != nil || !more || err != nil && !yield(update{err: err}) {
				return
			}
			if time.Since(begin) > lastPause {
				pause = firstPause
			}
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastPause)
		}
	}
}

// round reads the keys and follows them as far as nothing can be missed. It reports whether the caller wants more.
func (s *Store) round(ctx context.Context, key string, opts []clientv3.OpOption, yield func(update) bool) (more bool, err error) {
	var u update
	err = s.call(ctx, "read "+key, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, key, opts...)
		if err == nil {
			u = update{all: r.Kvs, whole: true, revision: r.Header.Revision}
		}
		return err
	})
	if err != nil || ctx.Err() != nil {
		return true, err
	}
	if !yield(u) {
		return false, nil
	}
	return s.events(ctx, key, u.revision+1, opts, yield)
}

// events yields what changes from a revision on. It reports whether the caller wants more, after the keys were read again.
func (s *Store) events(ctx context.Context, key string, from int64, opts []clientv3.OpOption, yield func(update) bool) (more bool, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return true, s.wrap("watch "+key, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	opts = append(opts[:len(opts):len(opts)], clientv3.WithRev(from))
	// A watch that joins the stream of another one has the token that this began with, which may have expired.
	ctx = metadata.AppendToOutgoingContext(ctx, "cniblocks-watch", strconv.FormatUint(s.watches.Add(1), 10))
	var events clientv3.WatchChan
	started := make(chan clientv3.WatchChan, 1)
	wg.Go(func() { started <- c.Watch(clientv3.WithRequireLeader(ctx), key, opts...) }) // waits for the store
	lost := make(chan struct{})
	wg.Go(func() {
		defer close(lost)
		disconnected(ctx, c.ActiveConnection())
	})
	wake := s.waker()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case events = <-started:
		case <-lost: // reading will tell whether it is back
			return ctx.Err() == nil, nil
		case <-wake:
			if wake = s.waker(); !yield(update{}) {
				return false, nil
			}
		case r, ok := <-events:
			u, err := collect(r, ok, events)
			if len(u.events) > 0 && !yield(u) {
				return false, nil
			}
			if err == errCompacted || err != nil && s.dropped(c) {
				return true, nil
			}
			if err != nil {
				return ctx.Err() == nil, s.wrap("watch "+key, err)
			}
		}
	}
}

// collect takes everything that has arrived.
func collect(r clientv3.WatchResponse, ok bool, more clientv3.WatchChan) (u update, err error) {
	for {
		switch {
		case !ok:
			return u, errEnded
		case r.CompactRevision != 0:
			return u, errCompacted
		case r.Err() != nil:
			return u, r.Err()
		}
		u.events = append(u.events, r.Events...)
		u.revision = max(u.revision, r.Header.Revision)
		select {
		case r, ok = <-more:
		default:
			return u, nil
		}
	}
}

var (
	errCompacted = errors.New("compacted")
	errEnded     = errors.New("the watch has ended")
)

// disconnected waits until a connection that stands does so no longer, or has not come to stand for a while.
func disconnected(ctx context.Context, conn *grpc.ClientConn) {
	const patience = 2 * time.Second
	stood := false
	for ctx.Err() == nil {
		state := conn.GetState()
		stood = stood || state == connectivity.Ready
		if stood && state != connectivity.Ready {
			return
		}
		wait, cancel := ctx, context.CancelFunc(func() {})
		if !stood {
			wait, cancel = context.WithTimeout(ctx, patience)
		}
		changed := conn.WaitForStateChange(wait, state)
		cancel()
		if !changed {
			return
		}
	}
}

// waker is closed when what is known apart from the keys has changed.
func (s *Store) waker() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wake
}

// woke is called with the lock held.
func (s *Store) woke() {
	close(s.wake)
	s.wake = make(chan struct{})
}
