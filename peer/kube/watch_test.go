//go:build linux

package kube_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/kube"
)

const patience = time.Minute // for what must happen

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

type news struct {
	peers []peer.Peer
	err   error
	when  time.Time
}

// watching runs a watch beside the test. What it yields comes through the channel.
func watching(t *testing.T, s *kube.Store) <-chan news {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	all, done := make(chan news, 1000), make(chan struct{})
	go func() {
		defer close(done)
		for peers, err := range s.Watch(ctx) {
			all <- news{peers, err, time.Now()}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return all
}

// next is what is yielded next.
func next(t *testing.T, all <-chan news) news {
	t.Helper()
	select {
	case n := <-all:
		return n
	case <-time.After(patience):
		require.FailNow(t, "nothing was yielded")
		return news{}
	}
}

// until waits for the state that holds.
func until(t *testing.T, all <-chan news, holds func(news) bool) news {
	t.Helper()
	for {
		if n := next(t, all); holds(n) {
			return n
		}
	}
}

func names(peers []peer.Peer) (out []string) {
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return out
}

func TestNodesWithFlannelsAnnotationsArePeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", vxlan(1), "10.244.1.0/24")
	w.add("early", map[string]string{"kube-subnet-manager": "true"}, "10.244.8.0/24")
	w.add("without-ranges", vxlan(9))
	w.add("foreign", nil, "10.244.7.0/24")
	all := watching(t, w.store(""))
	n := next(t, all)
	require.NoError(t, n.err)
	require.Equal(t, []peer.Peer{vxlanPeer(w.node("a"), 1)}, n.peers)

	w.add("b", vxlan(2), "10.244.2.0/24")
	n = next(t, all)
	require.NoError(t, n.err)
	require.Equal(t, []peer.Peer{vxlanPeer(w.node("a"), 1), vxlanPeer(w.node("b"), 2)}, n.peers)

	// What is nothing to others is not yielded: the next news is the deletion.
	w.annotate("b", map[string]string{"other": "x"})
	w.delete("a")
	n = next(t, all)
	require.NoError(t, n.err)
	require.Equal(t, []peer.Peer{vxlanPeer(w.node("b"), 2)}, n.peers)
}

func TestAClusterWithoutNodesIsAnEmptyListAndNotNil(t *testing.T) {
	t.Parallel()
	n := next(t, watching(t, newWorld(t, api(t)).store("")))
	require.NoError(t, n.err)
	require.NotNil(t, n.peers)
	require.Empty(t, n.peers)
}

func TestAnUpdateOfOneFamilysAnnotationIsNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	both := vxlan(1)
	maps.Copy(both, map[string]string{"public-ipv6": "2001:db8::1", "backend-v6-data": `{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}`})
	w.add("a", both, "10.244.1.0/24", "fd00:10:244:1::/64")
	all := watching(t, w.store(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`))
	n := next(t, all)
	require.NoError(t, n.err)
	require.Len(t, n.peers, 1)
	was := n.peers[0]
	require.Equal(t, "02:00:00:00:06:01", was.V6.MAC.String())

	w.annotate("a", map[string]string{"backend-v6-data": `{"VNI":1,"VtepMAC":"02:00:00:00:06:02"}`})
	now := next(t, all).peers[0]
	require.Equal(t, was.V4, now.V4)
	require.Equal(t, "02:00:00:00:06:02", now.V6.MAC.String())
	require.Equal(t, was.V6.Addr, now.V6.Addr)
}

func TestARangeOfAFamilyThatTheNetworkLacksIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", vxlan(1), "fd00:10:244:1::/64", "10.244.1.0/24")
	n := next(t, watching(t, w.store(`{"Network":"10.244.0.0/16"}`)))
	require.NoError(t, n.err)
	require.Equal(t, []peer.Peer{vxlanPeer(w.node("a"), 1)}, n.peers)
}

func TestABadAnnotationIsReportedByNodeAndNameAndCostsThatNodeAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change map[string]string
		want   []string
	}{
		"data that are no JSON": {map[string]string{"backend-data": "{"}, []string{"/backend-data "}},
		"a MAC that is none":    {map[string]string{"backend-data": `{"VNI":1,"VtepMAC":"no"}`}, []string{"/backend-data.VtepMAC", `"no"`}},
		"an address that is none": {map[string]string{"public-ip": "192.0.2.300"}, []string{
			"/public-ip ", `"192.0.2.300"`}},
		"an unknown backend":     {map[string]string{"backend-type": "udp"}, []string{"/backend-type ", `"udp"`}},
		"the address of another": {map[string]string{"public-ip": "192.0.2.1"}, []string{"192.0.2.1", "is also that of"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, api(t))
			w.add("good", vxlan(1), "10.244.1.0/24")
			w.add("wrong", vxlan(2), "10.244.2.0/24")
			all := watching(t, w.store(""))
			require.Len(t, next(t, all).peers, 2)
			w.annotate("wrong", c.change)
			n := next(t, all)
			require.Equal(t, []string{w.node("good")}, names(n.peers))
			require.ErrorContains(t, n.err, w.node("wrong"))
			for _, words := range c.want {
				require.ErrorContains(t, n.err, words)
			}
			w.annotate("wrong", vxlan(2))
			n = next(t, all)
			require.NoError(t, n.err)
			require.Len(t, n.peers, 2)
		})
	}
}

func TestANewcomerThatClaimsAnothersRangeIsTheOneLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("m", vxlan(1), "10.244.1.0/24")
	all := watching(t, w.store(""))
	require.Len(t, next(t, all).peers, 1)
	w.add("a", vxlan(2), "10.244.1.0/24")
	n := next(t, all)
	require.ErrorContains(t, n.err, w.node("a"))
	require.Equal(t, []string{w.node("m")}, names(n.peers))
}

// wire is a way to the API server that can be cut.
type wire struct {
	dialer
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("the wire is cut")
	}
	conn, err := w.dialer(ctx, network, addr)
	if err == nil {
		w.conns = append(w.conns, conn)
	}
	return conn, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func TestAnOutageRemovesNoPeerAndWhatHappenedMeanwhileIsCaughtUpWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", vxlan(1), "10.244.1.0/24")
	w.add("b", vxlan(2), "10.244.2.0/24")
	line := &wire{dialer: w.api.Dial}
	config, err := w.api.Kubeconfig("")
	require.NoError(t, err)
	all := watching(t, w.storeOf(kube.Options{Kubeconfig: config, Prefix: w.prefix}, line.dial))
	require.Len(t, next(t, all).peers, 2)

	line.set(true)
	n := next(t, all)
	require.ErrorContains(t, n.err, "the last good list with 2 peers is kept")
	require.Len(t, n.peers, 2)
	w.delete("b")
	w.add("c", vxlan(3), "10.244.3.0/24")
	require.Empty(t, all, "the same trouble is told once")

	line.set(false)
	back := time.Now()
	n = until(t, all, func(n news) bool { return len(n.peers) == 2 && n.peers[1].Name == w.node("c") })
	require.NoError(t, n.err)
	require.Equal(t, w.node("a"), n.peers[0].Name)
	t.Logf("caught up %s after the way was free", n.when.Sub(back).Round(time.Millisecond))
}

func TestARestartedAPIServerCostsNoPeerAndANodeThatIsGoneByThenIsForgotten(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, err := kubetest.Start(kubetest.Options{})
	require.NoError(t, err)
	t.Cleanup(a.Close)
	w := newWorld(t, a)
	w.add("a", vxlan(1), "10.244.1.0/24")
	w.add("b", vxlan(2), "10.244.2.0/24")
	line := &wire{dialer: a.Dial}
	config, err := a.Kubeconfig("")
	require.NoError(t, err)
	all, direct := watching(t, w.storeOf(kube.Options{Kubeconfig: config, Prefix: w.prefix}, line.dial)), watching(t, w.store(""))
	require.Len(t, next(t, all).peers, 2)
	require.Len(t, next(t, direct).peers, 2)

	a.StopServer()
	for _, ch := range []<-chan news{all, direct} {
		n := next(t, ch)
		require.ErrorContains(t, n.err, "the last good list with 2 peers is kept")
		require.Len(t, n.peers, 2)
	}
	line.set(true)
	require.NoError(t, a.StartServer())
	require.NoError(t, a.WaitReady())
	ready := time.Now()
	n := until(t, direct, func(n news) bool { return n.err == nil })
	require.Len(t, n.peers, 2)
	t.Logf("in touch again %s after the API server was ready", n.when.Sub(ready).Round(time.Millisecond))

	// The server that comes next remembers nothing of what this watch saw last: there has to be a new list.
	w.delete("b")
	a.StopServer()
	require.NoError(t, a.StartServer())
	require.NoError(t, a.WaitReady())
	line.set(false)
	n = until(t, all, func(n news) bool { return len(n.peers) == 1 && n.err == nil })
	require.Equal(t, []string{w.node("a")}, names(n.peers))
}

func TestARefusedTokenIsReportedAndNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	config, err := w.api.Kubeconfig("expired")
	require.NoError(t, err)
	s := w.storeOf(kube.Options{Kubeconfig: config, Prefix: w.prefix}, w.api.Dial)
	n := next(t, watching(t, s))
	require.Nil(t, n.peers)
	require.ErrorContains(t, n.err, "no peers are known yet")
	require.ErrorContains(t, n.err, "Unauthorized")
	require.NotContains(t, n.err.Error(), "expired")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.Acquire(ctx, peer.Peer{Name: "x"})
	require.ErrorContains(t, err, "Unauthorized")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAWatchThatNeverReachedTheServerEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	config, err := w.api.Kubeconfig("")
	require.NoError(t, err)
	s := w.storeOf(kube.Options{Kubeconfig: config}, (&wire{cut: true}).dial)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reports int
	for peers, err := range s.Watch(ctx) {
		require.Nil(t, peers)
		require.ErrorContains(t, err, "the wire is cut; no peers are known yet")
		reports++
		time.AfterFunc(300*time.Millisecond, cancel)
	}
	require.Equal(t, 1, reports)
	_, err = s.Acquire(ctx, peer.Peer{Name: "x"})
	require.ErrorIs(t, err, context.Canceled)
}

func TestPeersOutsideOfTheNetworkAreReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("in", vxlan(1), "10.244.1.0/24")
	w.add("out", vxlan(2), "10.9.2.0/24")
	n := next(t, watching(t, w.store(`{"Network":"10.244.0.0/16"}`)))
	require.ErrorContains(t, n.err, w.node("out"))
	require.ErrorContains(t, n.err, "10.9.2.0/24")
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, n.peers[0].Pods)
	require.Len(t, n.peers, 1)
}
