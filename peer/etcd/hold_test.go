//go:build linux

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

const short = 3 * time.Second // the least that a busy machine renews in time

// held is a node with a lease that it keeps.
type held struct {
	*etcd.Store
	peer.Peer
	lost chan error
	stop context.CancelFunc
}

func hold(t *testing.T, w *world, node peer.Peer, change ...func(*etcd.Options)) *held {
	t.Helper()
	s := w.node(append([]func(*etcd.Options){withTTL(short), withState(w.stateFile())}, change...)...)
	p, err := s.Acquire(within(t, patience), node)
	require.NoError(t, err)
	p.Reach = vxlan(node, node.V4.Addr.As4()[3])
	require.NoError(t, s.Publish(within(t, patience), p.Reach))
	ctx, stop := context.WithCancel(t.Context())
	h := &held{s, p, make(chan error, 1), stop}
	go func() { h.lost <- s.Lost(ctx) }()
	t.Cleanup(stop)
	return h
}

func (h *held) key() string { return h.Status().Key }

// until waits for a list that fits.
func until(t *testing.T, s *etcd.Store, fits func([]peer.Peer, error) bool) {
	t.Helper()
	for list, err := range s.Watch(within(t, patience)) {
		if fits(list, err) {
			return
		}
	}
	t.Fatal("it never came")
}

func TestRenewalKeepsTheLeaseAliveAndWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"))
	leases, revision := w.leases(), w.revision()
	require.Len(t, leases, 1)
	yields := 0
	ctx, cancel := context.WithTimeout(t.Context(), 3*short)
	defer cancel()
	for list, err := range w.node().Watch(ctx) {
		require.NoError(t, err)
		require.Len(t, list, 1)
		yields++
	}
	require.Equal(t, 1, yields, "nothing changed")
	require.Equal(t, leases, w.leases())
	require.Equal(t, revision, w.revision())
	require.Equal(t, []string{h.key()}, w.keys())
	require.WithinRange(t, h.Status().Expires, time.Now(), time.Now().Add(time.Hour))
	h.stop()
	require.ErrorIs(t, <-h.lost, context.Canceled)
	require.Equal(t, []string{h.key()}, w.keys(), "it stays taken")
}

func TestANodeThatIsGoneIsForgottenWhenItsLeaseRunsOutAndFindsItsRangeBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	observer := w.node()
	a := hold(t, w, want("a", "192.0.2.1"))
	b := hold(t, w, want("b", "192.0.2.2"))
	until(t, observer, func(list []peer.Peer, _ error) bool { return len(list) == 2 })

	a.stop() // killed
	require.ErrorIs(t, <-a.lost, context.Canceled)
	again := w.node(withTTL(short))
	p, err := again.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.True(t, p.Equal(a.Peer), "within its lease it finds what it had: %v, %v", p, a.Peer)

	until(t, observer, func(list []peer.Peer, err error) bool {
		require.NoError(t, err)
		return len(list) == 1 && list[0].V4.Addr == b.V4.Addr
	})
	require.Equal(t, []string{b.key()}, w.keys())
	require.Len(t, w.leases(), 1)
	p, err = w.node().Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, a.Pods, p.Pods, "its name leads it there")
}

func TestTheLeaseThatTheKeyIsBoundToNowIsKeptAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"))
	mine := w.leases()[0]
	id := w.grant(2)
	w.put(h.key(), w.value(h.key()), "--lease="+id)
	require.Eventually(t, func() bool { return fmt.Sprintf("%016x", h.Status().Lease) == id }, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return len(w.leases()) == 1 }, patience, 100*time.Millisecond, "the one that nothing is bound to runs out: %s", mine)
	time.Sleep(2 * short)
	require.Equal(t, []string{id}, w.leases())
	require.Equal(t, []string{h.key()}, w.keys())
	require.Contains(t, w.s.Ctl(t, "lease", "timetolive", "--keys", id), "/cniblocks/claims"+w.prefix, "the claim came along")

	w.put(h.key(), w.value(h.key())) // a reservation now
	require.Eventually(t, func() bool { return len(w.leases()) == 0 }, patience, 100*time.Millisecond)
	require.Equal(t, []string{h.key()}, w.keys())
	require.NoError(t, h.Publish(within(t, patience), vxlan(h.Peer, 7)))
	require.Equal(t, "0", w.leaseOf(h.key()))
	select {
	case err := <-h.lost:
		require.NoError(t, err)
	default:
	}
}

func TestALostLeaseIsNoticed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose func(*world, *held)
		want string
	}{
		"deleted": {func(w *world, h *held) { w.s.Ctl(t, "del", w.prefix+"/subnets/"+h.key()) },
			"the key is gone, so they are nobody's; its lease ran out, or it was deleted"},
		"revoked": {func(w *world, _ *held) { w.s.Ctl(t, "lease", "revoke", w.leases()[0]) },
			"the key is gone, so they are nobody's; its lease ran out, or it was deleted"},
		"another's": {func(w *world, h *held) {
			w.put(h.key(), `{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}`)
		}, "they are now those of 192.0.2.9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, etcdtest.New(t), small)
			h := hold(t, w, want("a", "192.0.2.1"))
			c.lose(w, h)
			err := <-h.lost
			require.ErrorIs(t, err, peer.ErrLost)
			require.EqualError(t, err, "etcd key "+w.prefix+"/subnets/"+h.key()+": the ranges are no longer this node's: "+c.want)
			for _, p := range first(t, h.Store) {
				require.Equal(t, "192.0.2.9", p.Name, "who has it now does not bear our name")
			}
			require.ErrorIs(t, h.Publish(within(t, patience), vxlan(h.Peer, 2)), peer.ErrLost)
			p, err := h.Acquire(within(t, patience), want("a", "192.0.2.1"))
			require.NoError(t, err)
			require.NoError(t, h.Publish(within(t, patience), vxlan(p, 2)))
		})
	}
}

func TestAnotherAddressOfTheSameNodeIsPublishedInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"))
	moved := want("a", "198.51.100.7")
	require.NoError(t, h.Publish(within(t, patience), vxlan(moved, 1)))
	require.Contains(t, w.value(h.key()), "198.51.100.7")
	p, err := h.Acquire(within(t, patience), moved)
	require.NoError(t, err)
	require.Equal(t, h.Pods, p.Pods)
	select {
	case err := <-h.lost:
		require.NoError(t, err)
	case <-time.After(short):
	}
	require.Len(t, w.leases(), 1)
}

func TestWhatAnotherWroteIntoTheKeyIsNotOverwrittenUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	s := w.node(withState(w.stateFile()))
	p, err := s.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	id := w.grant(3600)
	w.put(s.Status().Key, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`, "--lease="+id) // a person, or flanneld on this node
	require.NoError(t, s.Publish(within(t, patience), vxlan(p, 1)))
	require.Contains(t, w.value(s.Status().Key), "vxlan")
	require.Equal(t, id, fmt.Sprintf("%016x", s.Status().Lease), "and its lease stays")
}

func TestWaitingEndsAtOnceWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"), func(o *etcd.Options) { o.Timeout = time.Minute })
	stuck := w.node(func(o *etcd.Options) { o.Timeout = time.Minute })
	w.s.Stop(t)
	why := errors.New("enough")
	for what, f := range map[string]func(context.Context) error{
		"Acquire": func(ctx context.Context) error { _, err := stuck.Acquire(ctx, want("b", "192.0.2.2")); return err },
		"Publish": func(ctx context.Context) error { return h.Publish(ctx, vxlan(h.Peer, 9)) },
		"Config":  func(ctx context.Context) error { _, err := stuck.Config(ctx); return err },
		"Lost":    h.Lost,
		"Watch": func(ctx context.Context) error {
			for list, err := range stuck.Watch(ctx) {
				require.Nil(t, list)
				require.ErrorContains(t, err, "no peers are known yet")
			}
			return context.Cause(ctx)
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(300*time.Millisecond, func() { cancel(why) })
		begin := time.Now()
		require.ErrorIs(t, f(ctx), why, what)
		t.Logf("%s ended after %s", what, time.Since(begin).Round(time.Millisecond))
	}
}
