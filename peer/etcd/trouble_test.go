//go:build linux

package etcd_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

// three puts three leases.
func (w *world) three() {
	for i := 1; i <= 3; i++ {
		w.put(fmt.Sprintf("10.244.%d.0-24", i), value(fmt.Sprintf("192.0.2.%d", i), i))
	}
}

const allThree = "192.0.2.1 192.0.2.2 192.0.2.3"

func TestAnOutageRemovesNobodyAndAFreshListFollowsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin, end func(*etcdtest.Server, testing.TB)
	}{
		"stopped": {(*etcdtest.Server).Stop, (*etcdtest.Server).Start},
		"cut":     {func(s *etcdtest.Server, _ testing.TB) { s.Cut(true) }, func(s *etcdtest.Server, _ testing.TB) { s.Cut(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, etcdtest.New(t), small)
			w.three()
			s := w.node()
			all := observe(t, s)
			require.Equal(t, allThree, addresses(next(t, all).list))
			for range 2 {
				c.begin(w.s, t)
				begin := time.Now()
				down := next(t, all)
				t.Logf("told after %s", time.Since(begin).Round(time.Millisecond))
				require.Equal(t, allThree, addresses(down.list))
				require.ErrorContains(t, down.err, "etcd http://127.0.0.1:2379: ")
				require.ErrorContains(t, down.err, "; the last list with 3 peers is kept")
				time.Sleep(2 * time.Second)
				require.Empty(t, all, "the same trouble is told once")
				if name == "cut" { // others go on meanwhile
					w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.2.0-24")
				}
				c.end(w.s, t)
				begin = time.Now()
				back := next(t, all)
				t.Logf("back after %s", time.Since(begin).Round(time.Millisecond))
				require.NoError(t, back.err)
				require.Equal(t, name == "cut", addresses(back.list) == "192.0.2.1 192.0.2.3", back.list)
				if name == "cut" {
					w.put("10.244.2.0-24", value("192.0.2.2", 2))
					require.Len(t, next(t, all).list, 3)
					w.s.Ctl(t, "del", "--prefix", w.prefix+"/subnets/")
					for len(next(t, all).list) > 0 {
					}
					w.three()
					for len(next(t, all).list) < 3 {
					}
				}
			}
		})
	}
}

func TestANodeThatStartsWhileTheStoreIsDownWaitsForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.2.0-24")
	w.s.Stop(t)
	s := w.node()
	all := observe(t, s)
	got := next(t, all)
	require.Nil(t, got.list)
	require.ErrorContains(t, got.err, "; no peers are known yet")
	acquired := make(chan error, 1)
	go func() {
		_, err := s.Acquire(within(t, patience), want("a", "192.0.2.7"))
		acquired <- err
	}()
	time.Sleep(time.Second)
	require.Empty(t, all)
	require.Empty(t, acquired)
	w.s.Start(t)
	require.NoError(t, <-acquired)
	got = next(t, all)
	require.NoError(t, got.err)
	require.Len(t, got.list, 2)
}

func TestARevisionThatWasCompactedAwayLeadsToAFreshList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	all := observe(t, w.node())
	require.Len(t, next(t, all).list, 3)
	w.s.Cut(true)
	require.Error(t, next(t, all).err)
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.2.0-24")
	w.put("10.244.1.0-24", value("192.0.2.9", 9))
	w.s.Ctl(t, "compact", w.revision())
	w.s.Cut(false)
	got := next(t, all)
	require.NoError(t, got.err)
	require.Equal(t, "192.0.2.9 192.0.2.3", addresses(got.list))
}

func TestTheHolderOfALeaseOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"), withTTL(5*time.Second))
	w.s.Stop(t)
	time.Sleep(2 * time.Second)
	w.s.Start(t)
	require.NoError(t, h.Publish(within(t, patience), vxlan(h.Peer, 9)))
	select {
	case err := <-h.lost:
		require.NoError(t, err)
	case <-time.After(7 * time.Second):
	}
	require.Equal(t, []string{h.key()}, w.keys())
	require.Len(t, w.leases(), 1)
}

func TestALeaseThatRanOutWhileTheStoreWasOutOfReachIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	h := hold(t, w, want("a", "192.0.2.1"))
	w.s.Cut(true)
	require.Eventually(t, func() bool { return len(w.keys()) == 0 }, patience, 100*time.Millisecond)
	require.Empty(t, h.lost, "a store that cannot be reached is no loss")
	w.s.Cut(false)
	require.ErrorIs(t, <-h.lost, peer.ErrLost)
}

func TestASlowStoreIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.s.Slow(100 * time.Millisecond)
	begin := time.Now()
	s := w.node()
	p, err := s.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	t.Logf("Acquire took %s", time.Since(begin).Round(time.Millisecond))
	require.NoError(t, s.Publish(within(t, patience), vxlan(p, 1)))
	all := observe(t, s)
	require.Equal(t, "a", addresses(next(t, all).list))
	w.put(other(p), value("192.0.2.7", 7))
	require.Len(t, next(t, all).list, 2)
}

func TestAStoreThatDoesNotAnswerIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	w.s.Slow(time.Second)
	s := w.node(func(o *etcd.Options) { o.Timeout = 200 * time.Millisecond })
	all := observe(t, s)
	got := next(t, all)
	require.Nil(t, got.list)
	require.Error(t, got.err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := s.Acquire(ctx, want("a", "192.0.2.1"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "etcd http://127.0.0.1:2379: read "+w.prefix+"/config: ")
	t.Log(err)
	w.s.Slow(0)
	for got.err != nil {
		got = next(t, all)
	}
	require.Equal(t, allThree, addresses(got.list))
}

func TestAStoreThatRefusesIsReportedAndDoesNotMakeANodeWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t, "--quota-backend-bytes=100000"), small)
	for i := 0; ; i++ { // until it is full
		if out, err := w.s.TryCtl("put", fmt.Sprintf("/filler/%d", i), strings.Repeat("x", 20000)); err != nil {
			require.Contains(t, out, "database space exceeded")
			break
		}
	}
	_, err := w.node().Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.ErrorContains(t, err, "database space exceeded")
	require.Empty(t, first(t, w.node()), "reading goes on")
}

func TestOutagesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	s := w.node()
	all := observe(t, s)
	require.Len(t, next(t, all).list, 3)
	var before, after runtime.MemStats
	var goroutines int
	const rounds = 10
	for i := range rounds {
		w.s.Cut(true)
		require.Error(t, next(t, all).err)
		w.s.Cut(false)
		require.NoError(t, next(t, all).err)
		if i == 2 {
			runtime.GC()
			runtime.ReadMemStats(&before)
			goroutines = runtime.NumGoroutine()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("heap %d KB after 3 outages, %d KB after %d; goroutines of all tests %d, %d", before.HeapAlloc>>10, after.HeapAlloc>>10, rounds, goroutines, runtime.NumGoroutine())
	require.Equal(t, 3, len(first(t, s)))
}

// other is the key of a range of small that a node does not have.
func other(p peer.Peer) string {
	if p.Pods[0] == prefixes("10.244.1.0/24")[0] {
		return "10.244.2.0-24"
	}
	return "10.244.1.0-24"
}
