//go:build linux

package etcd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// wild is an etcd that knows only keys: what a cache sees of it.
type wild struct {
	rng *rand.Rand
	rev int64
	kvs map[string]*mvccpb.KeyValue
}

func (w *wild) pick(all ...string) string { return all[w.rng.IntN(len(all))] }

// change makes one event: mostly good leases, of a few addresses, so that many of them conflict.
func (w *wild) change() *clientv3.Event {
	w.rev++
	n := w.rng.IntN(12)
	key := fmt.Sprintf("p/10.244.%d.0-24", n)
	switch w.rng.IntN(60) {
	case 0:
		key = "p/" + w.pick("junk", "10.244.0.0-23", "10.244.3.128-25", "0.0.0.0-0&fd00:1::-64", "10.244.4.0-24&fd00:1::-64")
	case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20:
		if old := w.kvs[key]; old != nil {
			delete(w.kvs, key)
			return &clientv3.Event{Type: clientv3.EventTypeDelete, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: w.rev}}
		}
	}
	mac := n
	switch w.rng.IntN(80) {
	case 0:
		mac = w.rng.IntN(12)
	case 1:
		n = w.rng.IntN(12)
	}
	value := fmt.Sprintf(`{"PublicIP":"192.0.2.%d","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}}`, n+1, mac)
	switch w.rng.IntN(20) {
	case 0:
		value = w.pick("{", `{"PublicIP":"192.0.2.1"}`, `{"PublicIP":"10.244.3.7","BackendType":"host-gw"}`, `{"PublicIP":"127.0.0.1","BackendType":"ipip"}`,
			`{"PublicIPv6":"fd00:1::7","BackendType":"host-gw"}`, `{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"host-gw"}`)
	case 1, 2:
		value = fmt.Sprintf(`{"PublicIP":"192.0.2.%d","BackendType":"host-gw"}`, n+1)
	}
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: w.rev, ModRevision: w.rev}
	if old := w.kvs[key]; old != nil {
		kv.CreateRevision = old.CreateRevision
	}
	w.kvs[key] = kv
	return &clientv3.Event{Type: clientv3.EventTypePut, Kv: kv}
}

func (w *wild) all() []*mvccpb.KeyValue {
	var all []*mvccpb.KeyValue
	for _, kv := range w.kvs {
		all = append(all, kv)
	}
	return all
}

func keysOf(r *cache) (all []string) {
	for _, e := range r.order {
		all = append(all, e.key)
	}
	return all
}

func TestAListThatWasChangedStepByStepIsTheOneThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	steps, full := 0, 0
	for seed := range uint64(30) {
		w := &wild{rng: rand.New(rand.NewPCG(seed, 1)), kvs: map[string]*mvccpb.KeyValue{}}
		within := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/16")}
		r := newCache("p/")
		r.know(within, "10.244.3.0-24", "me")
		var was []peer.Peer
		for range 100 {
			var events []*clientv3.Event
			for range 1 + w.rng.IntN(3) {
				events = append(events, w.change())
			}
			changed := r.apply(events)
			steps++
			if len(r.clashes) > 0 {
				full++
			}
			anew := newCache("p/")
			anew.know(within, "10.244.3.0-24", "me")
			anew.reset(w.all())
			require.True(t, slices.EqualFunc(anew.peers(nil), r.peers(nil), peer.Peer.Equal), "seed %d:\n%v\n%v", seed, anew.peers(nil), r.peers(nil))
			require.Equal(t, anew.problems().Error(), r.problems().Error(), "seed %d", seed)
			require.Equal(t, keysOf(anew), keysOf(r))
			require.Equal(t, anew.invalid, r.invalid)
			require.True(t, changed || slices.EqualFunc(was, r.peers(nil), peer.Peer.Equal), "seed %d: a change that nobody is told", seed)
			was = r.peers(nil)
			require.NoError(t, peer.Network{Prefixes: within, Peers: r.peers(nil)}.Validate())
		}
	}
	t.Logf("%d steps, %d of them with conflicts", steps, full)
}

func TestFreeRangesAreFoundAroundWhatIsTaken(t *testing.T) {
	t.Parallel()
	config := func(doc string) flannel.Config {
		c, err := flannel.ParseConfig([]byte(doc))
		require.NoError(t, err)
		c, err = c.Ranges()
		require.NoError(t, err)
		return c
	}
	list := func(all string) (p []netip.Prefix) {
		for _, s := range strings.Fields(all) {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for _, c := range []struct{ config, preferred, taken, want string }{
		{`{"Network":"10.244.0.0/22"}`, "10.244.2.0/24", "", "10.244.2.0-24"},
		{`{"Network":"10.244.0.0/22"}`, "10.244.2.0/24", "10.244.2.0/25", "10.244.3.0-24 10.244.1.0-24"},
		{`{"Network":"10.244.0.0/22"}`, "10.9.2.0/24 10.244.0.0/24 10.244.1.0/25", "10.244.2.0/23", "10.244.1.0-24"},
		{`{"Network":"10.244.0.0/22"}`, "", "10.244.2.128/25 10.244.1.0/24 10.0.0.0/16 fd00::/8", "10.244.3.0-24"},
		{`{"Network":"10.244.0.0/22"}`, "", "10.244.3.0/24 10.244.0.0/23", "10.244.2.0-24"},
		{`{"Network":"10.244.0.0/22","SubnetMin":"10.244.2.0","SubnetMax":"10.244.2.0"}`, "", "", "10.244.2.0-24"},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16"}`, "fd00:0:0:7::/64", "fd00::/17", "0.0.0.0-0&fd00:8"},
		{`{"Network":"10.244.0.0/22","EnableIPv6":true,"IPv6Network":"fd00::/32"}`, "fd00:0:0:7::/64 10.244.1.0/24", "fd00:0:0:6::/64", "10.244.1.0-24&fd00:0:0:7::-64"},
	} {
		l, err := choose(config(c.config), "node", list(c.preferred), list(c.taken))
		require.NoError(t, err, c)
		require.True(t, slices.ContainsFunc(strings.Fields(c.want), func(w string) bool { return strings.HasPrefix(l.Key(), w) }), "%v: %s", c, l.Key())
		require.False(t, overlap(l.Pods(), list(c.taken)))
	}
	for _, taken := range []string{"10.244.0.0/16", "10.244.1.0/24 10.244.2.0/24 10.244.3.7/32", "0.0.0.0/0"} {
		_, err := choose(config(`{"Network":"10.244.0.0/22"}`), "node", nil, list(taken))
		require.ErrorContains(t, err, "the network is full: all 3 ranges of /24 in Network 10.244.0.0/22 are taken: extend Network")
	}
	_, err := choose(config(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/62"}`), "node", nil, list("fd00::/60"))
	require.ErrorContains(t, err, "in IPv6Network fd00::/62 are taken: extend IPv6Network")
}

func TestEveryRangeIsGivenOutBeforeANetworkIsFull(t *testing.T) {
	t.Parallel()
	c, err := flannel.ParseConfig([]byte(`{"Network":"10.0.0.0/16"}`))
	require.NoError(t, err)
	c, err = c.Ranges()
	require.NoError(t, err)
	var taken []netip.Prefix
	for i := range 255 {
		l, err := choose(c, fmt.Sprint(i), nil, taken)
		require.NoError(t, err)
		require.False(t, overlap(l.Pods(), taken))
		taken = append(taken, l.Subnet)
	}
	_, err = choose(c, "more", nil, taken)
	require.ErrorContains(t, err, "is full: all 255 ranges")
}

// flanneld reads before it writes and makes no claims, so its lease may come in between.
func TestTheNodeThatWasLaterThanFlanneldGivesItsRangesBack(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	s, err := New(Options{Endpoints: []string{etcdtest.URL}, Dial: server.Dial, StateFile: t.TempDir() + "/etcd.json"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	server.Ctl(t, "put", s.configKey(), `{"Network":"10.244.0.0/22","EnableIPv6":true,"IPv6Network":"fd00::/32"}`)
	config, err := s.Config(t.Context())
	require.NoError(t, err)
	before, err := s.look(t.Context())
	require.NoError(t, err)

	server.Ctl(t, "put", s.subnets()+"10.244.1.0-24&fd00:0:0:1::-64", `{"PublicIP":"192.0.2.9"}`)
	want := flannel.Lease{Subnet: netip.MustParsePrefix("10.244.1.0/24"), IPv6Subnet: netip.MustParsePrefix("fd00:0:0:2::/64"),
		Attrs: flannel.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}}
	h, err := s.take(t.Context(), before, nil, want, s.load("a"))
	require.NoError(t, err)
	require.Nil(t, h, "try again")
	w, err := s.look(t.Context())
	require.NoError(t, err)
	require.Len(t, w.leases, 1)
	require.Empty(t, w.claimed)

	h, err = s.try(t.Context(), config, peer.Peer{Name: "a"}, want.Attrs)
	require.NoError(t, err)
	require.NotNil(t, h)
	require.False(t, overlap(h.Pods(), w.leases[0].Pods()))

	// One that comes later does not take anything away, however it overlaps.
	server.Ctl(t, "put", s.subnets()+flannel.KeyOf(h.Subnet), `{"PublicIP":"192.0.2.8"}`)
	again, err := s.try(t.Context(), config, peer.Peer{Name: "a"}, want.Attrs)
	require.NoError(t, err)
	require.Equal(t, h.key, again.key)
}

func TestATransactionThatIsTooLateWritesNothing(t *testing.T) {
	t.Parallel()
	server := etcdtest.New(t)
	s, err := New(Options{Endpoints: []string{etcdtest.URL}, Dial: server.Dial})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	lease := flannel.Lease{Subnet: netip.MustParsePrefix("10.244.1.0/24"), Attrs: flannel.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}}
	for _, key := range []string{s.subnets() + lease.Key(), s.claimKey(lease.Subnet)} {
		before, err := s.look(t.Context())
		require.NoError(t, err)
		server.Ctl(t, "put", key, lease.Key())
		h, err := s.take(t.Context(), before, nil, lease, state{Node: "a"})
		require.NoError(t, err)
		require.Nil(t, h)
		require.NotContains(t, server.Ctl(t, "get", "--prefix", "/"), "192.0.2.1")
		server.Ctl(t, "del", key)
	}
	begin := time.Now()
	before, err := s.look(t.Context())
	require.NoError(t, err)
	h, err := s.take(t.Context(), before, nil, lease, state{Node: "a"})
	require.NoError(t, err)
	require.NotNil(t, h)
	t.Logf("a take took %s", time.Since(begin).Round(time.Millisecond))
}
