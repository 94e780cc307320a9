package peer_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// store keeps a network of /24 ranges in memory: the smallest thing that can stand behind both interfaces.
type store struct {
	mu      sync.Mutex
	network netip.Prefix
	peers   []peer.Peer
	changed chan struct{} // closed and made anew at every change
	writes  int
}

func newStore(network string) *store {
	return &store{network: netip.MustParsePrefix(network), changed: make(chan struct{})}
}

// change calls f, which reports whether it wrote.
func (s *store) change(f func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f() {
		s.writes++
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

func (s *store) find(name string) int {
	return slices.IndexFunc(s.peers, func(p peer.Peer) bool { return p.Name == name })
}

func (s *store) free(r netip.Prefix) bool {
	return r.IsValid() && !slices.ContainsFunc(s.peers, func(p peer.Peer) bool { return p.Pods[0].Overlaps(r) })
}

func (s *store) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(yield func([]peer.Peer, error) bool) {
		for ctx.Err() == nil {
			s.mu.Lock()
			peers, changed := append([]peer.Peer{}, s.peers...), s.changed
			s.mu.Unlock()
			if !yield(peers, nil) {
				return
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
}

// member is one node's hold of a store.
type member struct {
	*store
	name string
	pods netip.Prefix
}

func (m *member) Acquire(_ context.Context, want peer.Peer) (got peer.Peer, err error) {
	m.change(func() bool {
		m.name = want.Name
		if i := m.find(m.name); i >= 0 {
			got = m.peers[i]
			return false
		}
		var r netip.Prefix
		if len(want.Pods) > 0 && m.free(want.Pods[0]) {
			r = want.Pods[0]
		}
		for a := m.network.Addr(); !r.IsValid() && m.network.Contains(a); {
			next := netip.PrefixFrom(a, 24)
			if m.free(next) {
				r = next
			}
			b := a.As4()
			b[2]++
			a = netip.AddrFrom4(b)
		}
		if !r.IsValid() {
			err = fmt.Errorf("no /24 of %s is free for %s: extend network", m.network, m.name)
			return false
		}
		got = peer.Peer{Name: m.name, Pods: []netip.Prefix{r}, Reach: want.Reach}
		m.peers = append(m.peers, got)
		return true
	})
	if err == nil {
		m.pods = got.Pods[0]
	}
	return got, err
}

func (m *member) Publish(_ context.Context, r peer.Reach) (err error) {
	m.change(func() bool {
		i := m.find(m.name)
		if i < 0 {
			err = fmt.Errorf("publish %s: %w", m.name, peer.ErrLost)
			return false
		}
		wrote := m.peers[i].Reach != r
		m.peers[i].Reach = r
		return wrote
	})
	return err
}

func (m *member) Lost(ctx context.Context) error {
	for range m.Watch(ctx) { //nolint:errcheck // it yields no error
		m.mu.Lock()
		gone := m.find(m.name) < 0
		m.mu.Unlock()
		if gone {
			return fmt.Errorf("%s is nobody's: %w", m.pods, peer.ErrLost)
		}
	}
	return context.Cause(ctx)
}

var (
	_ peer.Source    = (*store)(nil)
	_ peer.Registrar = (*member)(nil)
)

func TestNodesThatRegisterAtOnceMakeAValidNetwork(t *testing.T) {
	t.Parallel()
	s := newStore("10.244.0.0/16")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			m := &member{store: s}
			var end peer.Reach
			end.V4.Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			_, err := m.Acquire(t.Context(), peer.Peer{Name: fmt.Sprint("n", i), Reach: end})
			if err == nil {
				end.V4.MAC = peer.DeriveMAC("pods", fmt.Sprint("n", i), inet.IPv4)
				_ = m.Publish(t.Context(), end)
			}
		})
	}
	for peers := range s.Watch(t.Context()) { //nolint:errcheck // it yields no error
		n := peer.Network{Prefixes: []netip.Prefix{s.network}, Peers: peers}
		require.NoError(t, n.Validate())
		ready := !slices.ContainsFunc(peers, func(p peer.Peer) bool { return p.V4.MAC == inet.MAC{} })
		if len(peers) == 50 && ready {
			break
		}
	}
	wg.Wait()
}

func TestANodeGetsItsEarlierRangesAgainAndPublishesOnce(t *testing.T) {
	t.Parallel()
	s := newStore("10.244.0.0/16")
	ctx := t.Context()
	a, b := &member{store: s}, &member{store: s}
	require.ErrorIs(t, a.Publish(ctx, peer.Reach{}), peer.ErrLost)
	want := at("a", "192.0.2.1", "10.244.7.0/24")
	first, err := a.Acquire(ctx, want)
	require.NoError(t, err)
	require.True(t, first.Equal(want))
	other, err := b.Acquire(ctx, at("b", "192.0.2.2", "10.244.7.0/24"))
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.0.0/24"), other.Pods, "that one is another's")

	writes := s.writes
	again, err := a.Acquire(ctx, at("a", "192.0.2.1"))
	require.NoError(t, err)
	require.True(t, again.Equal(first))
	require.NoError(t, a.Publish(ctx, first.Reach))
	require.Equal(t, writes, s.writes, "nothing new is no write")
	first.V4.Port = 4789
	require.NoError(t, a.Publish(ctx, first.Reach))
	require.Equal(t, writes+1, s.writes)
}

func TestALossIsToldWithItsReasonAndAnEndIsNone(t *testing.T) {
	t.Parallel()
	s := newStore("10.244.0.0/24")
	m := &member{store: s}
	_, err := m.Acquire(t.Context(), at("a", "192.0.2.1"))
	require.NoError(t, err)
	_, err = (&member{store: s}).Acquire(t.Context(), at("b", "192.0.2.2"))
	require.EqualError(t, err, "no /24 of 10.244.0.0/24 is free for b: extend network")

	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	err = m.Lost(ctx)
	require.ErrorIs(t, err, stop)
	require.NotErrorIs(t, err, peer.ErrLost)
	require.Len(t, s.peers, 1, "the range stays taken")

	lost := make(chan error)
	go func() { lost <- m.Lost(t.Context()) }()
	s.change(func() bool { s.peers = nil; return true })
	err = <-lost
	require.ErrorIs(t, err, peer.ErrLost)
	require.EqualError(t, err, "10.244.0.0/24 is nobody's: the ranges are no longer this node's")
}

func TestAReportTellsEntriesThatAreLeftOutFromAStoreThatIsDown(t *testing.T) {
	t.Parallel()
	down := errors.New("no answer")
	out := peer.Problems{{Peer: "lease README", Key: "key", Value: "README", Reason: "names no range", Remedy: "delete it"}}
	left := &peer.LeftOut{Where: "etcd", Problems: out}
	for _, c := range []struct {
		err, down error
		out       peer.Problems
	}{
		{nil, nil, nil},
		{down, down, nil},
		{left, nil, out},
		{errors.Join(left), nil, out},
		{fmt.Errorf("%w; the last list is kept", down), fmt.Errorf("%w; the last list is kept", down), nil},
		{errors.Join(down, left), errors.Join(down), out},
		{fmt.Errorf("the document: %w", out), fmt.Errorf("the document: %w", out), nil}, // as a whole
	} {
		gotOut, gotDown := peer.Report(c.err)
		require.Equal(t, fmt.Sprint(c.down), fmt.Sprint(gotDown))
		require.Equal(t, c.out, gotOut)
	}
	var problems peer.Problems
	require.ErrorAs(t, errors.Join(down, left), &problems)
	require.EqualError(t, left, "etcd: lease README: key README names no range: delete it")
}
