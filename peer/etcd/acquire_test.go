//go:build linux

package etcd_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

const (
	small    = `{ "Network": "10.244.0.0/22", "SubnetLen": 24, "Backend": { "Type": "vxlan" } }` // three ranges
	small6   = `{ "EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/62", "IPv6SubnetLen": 64, "Backend": { "Type": "vxlan" } }`
	smallTwo = `{ "Network": "10.244.0.0/22", "SubnetLen": 24, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": { "Type": "vxlan" } }`
)

var patience = 60 * time.Second

func TestANodeTakesARangeAndIsAPeerWhenItPublishesItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, value string
		node          peer.Peer
		pods          []netip.Prefix
		key           string
		claims        []string
	}{
		"IPv4": {small, `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:04:00:00:00:01"}}`,
			want("a", "192.0.2.1"), prefixes("10.244.3.0/24"), "10.244.3.0-24", []string{"10.244.3.0-24"}},
		"IPv6": {small6, `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"02:06:00:00:00:01"}}`,
			want("a", "2001:db8::1"), prefixes("fd00:10:244:3::/64"), "0.0.0.0-0&fd00:10:244:3::-64", []string{"fd00:10:244:3::-64"}},
		"dual": {smallTwo, `{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:04:00:00:00:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:06:00:00:00:01"}}`,
			want("a", "192.0.2.1", "2001:db8::1"), prefixes("10.244.3.0/24", "fd00:10:244:7::/64"), "10.244.3.0-24&fd00:10:244:7::-64", []string{"10.244.3.0-24", "fd00:10:244:7::-64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, etcdtest.New(t), c.config)
			s, ctx := w.node(withState(w.stateFile())), within(t, patience)
			require.ErrorContains(t, s.Publish(ctx, vxlan(c.node, 1)), "call Acquire first")
			require.ErrorContains(t, s.Lost(ctx), "call Acquire first")

			node := c.node
			node.Pods = c.pods // that it had before
			p, err := s.Acquire(ctx, node)
			require.NoError(t, err)
			require.Equal(t, node, p)
			require.Equal(t, []string{c.key}, w.keys())
			require.NotContains(t, w.value(c.key), "Backend")
			require.Empty(t, first(t, w.node()), "nobody takes it for a peer yet")

			require.NoError(t, s.Publish(ctx, vxlan(node, 1)))
			require.Equal(t, c.value, w.value(c.key))
			revision := w.revision()
			require.NoError(t, s.Publish(ctx, vxlan(node, 1)))
			require.Equal(t, revision, w.revision(), "the same again writes nothing")

			p.Reach = vxlan(node, 1)
			require.Equal(t, []peer.Peer{p}, first(t, s))
			other := p
			other.Name = p.V4.Addr.String()
			if !p.V4.Addr.IsValid() {
				other.Name = p.V6.Addr.String()
			}
			require.Equal(t, []peer.Peer{other}, first(t, w.node()), "others know it by its address")

			again, err := s.Acquire(ctx, want("a", addrs(node)...))
			require.NoError(t, err)
			require.Equal(t, p, again, "what it holds is not taken twice, and the MAC is remembered")
			require.Equal(t, []string{c.key}, w.keys())
			claims := strings.Fields(w.s.Ctl(t, "get", "--prefix", "--keys-only", "/cniblocks/claims"+w.prefix+"/"))
			for i := range claims {
				claims[i] = strings.TrimPrefix(claims[i], "/cniblocks/claims"+w.prefix+"/")
			}
			require.Equal(t, c.claims, claims)
			require.Len(t, w.leases(), 1)
		})
	}
}

func TestThreeNodesThatComeUpAtOnceShareThreeFreeRanges(t *testing.T) {
	t.Parallel()
	s := etcdtest.New(t)
	for family, config := range map[string]string{"IPv4": small, "IPv6": small6, "dual": smallTwo} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			rounds := 50
			begin := time.Now()
			for round := range rounds {
				w := newWorld(t, s, "")
				w.prefix += fmt.Sprintf("/%d", round)
				s.Ctl(t, "put", w.prefix+"/config", config)
				ctx, got := within(t, patience), [3]peer.Peer{}
				var wg sync.WaitGroup
				var errs [3]error
				for i := range got {
					node := w.node()
					wg.Go(func() {
						got[i], errs[i] = node.Acquire(ctx, want(fmt.Sprintf("node-%d", i), fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("2001:db8::%d", i+1)))
					})
				}
				wg.Wait()
				var all []netip.Prefix
				for i := range got {
					require.NoError(t, errs[i], "round %d", round)
					for _, r := range got[i].Pods {
						for _, o := range all {
							require.False(t, r.Overlaps(o), "round %d: %s and %s", round, r, o)
						}
						all = append(all, r)
					}
				}
				require.Len(t, w.keys(), 3)
			}
			t.Logf("%d rounds in %s", rounds, time.Since(begin).Round(time.Millisecond))
		})
	}
}

func TestANetworkWithoutAFreeRangeSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	ctx := within(t, patience)
	for i := range 3 {
		_, err := w.node().Acquire(ctx, want(fmt.Sprintf("node-%d", i), fmt.Sprintf("192.0.2.%d", i+1)))
		require.NoError(t, err)
	}
	state := w.stateFile()
	_, err := w.node(withState(state)).Acquire(ctx, want("node-3", "192.0.2.4"))
	require.EqualError(t, err, `take ranges for node "node-3": the network is full: all 3 ranges of /24 in Network 10.244.0.0/22 are taken: `+
		`extend Network, or delete the leases of nodes that are gone for good`)
	require.NoFileExists(t, state)
	require.Len(t, w.leases(), 3)
}

func TestTwoDualStackNodesFightForOneIPv4Range(t *testing.T) {
	t.Parallel()
	s := etcdtest.New(t)
	for round := range 10 {
		w := newWorld(t, s, "")
		w.prefix += fmt.Sprintf("/%d", round)
		s.Ctl(t, "put", w.prefix+"/config", `{ "Network": "10.244.0.0/22", "SubnetMin": "10.244.3.0", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48" }`)
		ctx := within(t, patience)
		var wg sync.WaitGroup
		var errs [2]error
		for i := range errs {
			node := w.node()
			wg.Go(func() {
				p := want(fmt.Sprintf("node-%d", i), fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("2001:db8::%d", i+1))
				p.Pods = prefixes(fmt.Sprintf("fd00:10:244:%d::/64", i+1))
				_, errs[i] = node.Acquire(ctx, p)
			})
		}
		wg.Wait()
		require.True(t, (errs[0] == nil) != (errs[1] == nil), "one of them has it: %v", errs)
		for _, err := range errs {
			if err != nil {
				require.ErrorContains(t, err, "the network is full: all 1 ranges of /24 in Network 10.244.0.0/22 are taken")
			}
		}
		require.Len(t, w.keys(), 1)
	}
}

func TestAClaimIsVoidWithoutTheLeaseThatItIsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), `{ "Network": "10.244.0.0/22", "SubnetMin": "10.244.3.0" }`)
	ctx := within(t, patience)
	_, err := w.node().Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.3.0-24") // by hand; the claim stays
	p, err := w.node().Acquire(ctx, want("b", "192.0.2.2"))
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.3.0/24"), p.Pods)
}

func TestAClaimForAnythingThatIsThereIsRespected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	claim := func(name, of string) { w.s.Ctl(t, "put", "/cniblocks/claims"+w.prefix+"/"+name, of) }
	w.put("notes", "put here by a person")
	claim("10.244.1.0-24", "notes")
	claim("10.244.2.0-24", "gone")
	claim("junk", "notes")
	claim("-", "notes")
	node := want("a", "192.0.2.1")
	node.Pods = prefixes("10.244.1.0/24", "10.244.2.0/24")
	p, err := w.node().Acquire(within(t, patience), node)
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.2.0/24"), p.Pods)
	_, err = w.node().Acquire(within(t, patience), want("b", "192.0.2.2"))
	require.NoError(t, err)
	_, err = w.node().Acquire(within(t, patience), want("c", "192.0.2.3"))
	require.ErrorContains(t, err, "the network is full")
}

func TestAReservationStaysAReservation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	ctx := within(t, patience)
	w.put("10.244.2.0-24", `{"PublicIP":"192.0.2.1"}`)
	s := w.node(withState(w.stateFile()), withTTL(2*time.Second))
	other, err := w.node().Acquire(ctx, func() peer.Peer { p := want("b", "192.0.2.2"); p.Pods = prefixes("10.244.2.0/24"); return p }())
	require.NoError(t, err)
	require.NotEqual(t, prefixes("10.244.2.0/24"), other.Pods, "it is nobody else's")

	p, err := s.Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.2.0/24"), p.Pods)
	require.NoError(t, s.Publish(ctx, vxlan(want("a", "192.0.2.1"), 1)))
	require.Zero(t, s.Status().Lease)
	require.Equal(t, "0", w.leaseOf("10.244.2.0-24"))
	require.Contains(t, w.value("10.244.2.0-24"), "vxlan")
	require.Len(t, w.leases(), 1, "b's")
	lost := make(chan error, 1)
	stop := within(t, 3*time.Second) // more than the TTL
	go func() { lost <- s.Lost(stop) }()
	require.NotErrorIs(t, <-lost, peer.ErrLost)
	require.Len(t, w.leases(), 1)

	w.s.Ctl(t, "put", w.prefix+"/config", `{ "Network": "10.245.0.0/16" }`)
	_, err = s.Acquire(ctx, want("a", "192.0.2.1"))
	require.EqualError(t, err, `take ranges for node "a": its reservation 10.244.2.0-24 does not fit the configuration, or overlaps an older lease: delete it, or change the configuration`)
	require.Contains(t, w.keys(), "10.244.2.0-24")
}

func TestALeaseThatFitsNoLongerIsReplacedByOneThatKeepsWhatItCan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	ctx, state := within(t, patience), w.stateFile()
	node := want("a", "192.0.2.1", "2001:db8::1")
	p, err := w.node(withState(state)).Acquire(ctx, node)
	require.NoError(t, err)

	w.s.Ctl(t, "put", w.prefix+"/config", smallTwo)
	q, err := w.node(withState(state)).Acquire(ctx, node)
	require.NoError(t, err)
	require.Equal(t, p.Pods[0], q.Pods[0])
	require.Len(t, q.Pods, 2)
	require.Len(t, w.keys(), 1)
	require.Len(t, w.leases(), 1)

	w.s.Ctl(t, "put", w.prefix+"/config", `{ "Network": "10.99.0.0/16" }`)
	q, err = w.node(withState(state)).Acquire(ctx, node)
	require.NoError(t, err)
	require.True(t, netip.MustParsePrefix("10.99.0.0/16").Overlaps(q.Pods[0]))
	require.Len(t, w.keys(), 1)
	claims := strings.Fields(w.s.Ctl(t, "get", "--prefix", "--keys-only", "/cniblocks/claims"+w.prefix+"/"))
	require.Len(t, claims, 1)
	require.Len(t, w.leases(), 1)
}

func TestANodeThatRanFlanneldKeepsItsRangeAndItsLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	ctx := within(t, patience)
	id := w.grant(3600)
	const value = `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`
	w.put("10.244.1.0-24", value, "--lease="+id)
	s := w.node(withState(w.stateFile()))
	p, err := s.Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.1.0/24"), p.Pods)
	require.Equal(t, "c6:d2:32:6f:8f:44", p.V4.MAC.String(), "the MAC to go on with")
	require.Equal(t, value, w.value("10.244.1.0-24"))
	require.Equal(t, []string{id}, w.leases())
	require.Equal(t, id, fmt.Sprintf("%016x", s.Status().Lease))
	require.Contains(t, w.s.Ctl(t, "lease", "timetolive", "--keys", id), "/cniblocks/claims"+w.prefix+"/10.244.1.0-24", "its range is claimed now")
}

func TestANetworkThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), "")
	_, err := w.node().Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "put the network there: etcdctl put "+w.prefix+"/config '{")
	_, err = w.node().Acquire(within(t, patience), want("a"))
	require.ErrorContains(t, err, "its name and one address at least have to be stated")
	w.s.Ctl(t, "put", w.prefix+"/config", `{"Network":"10.244.0.0"}`)
	_, err = w.node().Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.EqualError(t, err, `take ranges for node "a": etcd key `+w.prefix+`/config: flannel configuration: Network "10.244.0.0" is not a range of ipv4: write one such as "10.244.0.0/16"`)
}

func TestARestartLeavesNoLeaseThatNobodyUses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	ctx, state := within(t, patience), w.stateFile()
	var was peer.Peer
	for range 3 {
		s := w.node(withState(state))
		p, err := s.Acquire(ctx, want("a", "192.0.2.1"))
		require.NoError(t, err)
		require.True(t, was.Name == "" || was.Equal(p), "the same range")
		was = p
		require.Equal(t, []string{fmt.Sprintf("%016x", s.Status().Lease)}, w.leases())
		require.NoError(t, s.Close())
	}
	info, err := os.Stat(state)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	// Killed between the grant and the write of the key: the etcd lease is there, and nothing is bound to it.
	w.s.Ctl(t, "del", "--prefix", w.prefix+"/subnets/")
	w.s.Ctl(t, "del", "--prefix", "/cniblocks/claims"+w.prefix+"/")
	require.Len(t, w.leases(), 1)
	p, err := w.node(withState(state)).Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, was.Pods, p.Pods, "the earlier range is preferred")
	require.Len(t, w.leases(), 1)

	// Killed between writing the file and the grant: there is no such lease.
	w.s.Ctl(t, "lease", "revoke", w.leases()[0])
	require.Empty(t, w.keys())
	p, err = w.node(withState(state)).Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, was.Pods, p.Pods)
	require.Len(t, w.leases(), 1)

	for what, torn := range map[string]string{"torn": `{"node":"a","lea`, "a copied machine's": `{"node":"b","lease":"1234"}`, "nonsense": `{"node":"a","lease":"-5"}`} {
		require.NoError(t, os.WriteFile(state, []byte(torn), 0o600))
		p, err = w.node(withState(state)).Acquire(ctx, want("a", "192.0.2.1"))
		require.NoError(t, err, what)
		require.Equal(t, was.Pods, p.Pods, "found by the address")
		require.Len(t, w.leases(), 1)
	}
	b, err := os.ReadFile(state)
	require.NoError(t, err)
	require.Contains(t, string(b), strings.TrimLeft(w.leases()[0], "0"))
}

func TestAStateFileThatCannotBeWrittenIsToldBeforeALeaseIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	_, err := w.node(withState("/proc/nowhere/etcd.json")).Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.ErrorContains(t, err, "remember the etcd lease of this node: mkdir /proc/nowhere")
	require.Empty(t, w.leases())
}

// first is the first list that a store yields, which is one without trouble.
func first(t *testing.T, s *etcd.Store) []peer.Peer {
	t.Helper()
	for list, err := range s.Watch(within(t, patience)) {
		require.NoError(t, err)
		return list
	}
	t.Fatal("the watch ended")
	return nil
}

func addrs(p peer.Peer) (all []string) {
	for _, f := range inet.Families {
		if a := p.Endpoint(f).Addr; a.IsValid() {
			all = append(all, a.String())
		}
	}
	return all
}

var (
	word     = regexp.MustCompile(`(?m)^[0-9a-f]{8,16}$`)
	revision = regexp.MustCompile(`"revision":(\d+)`)
	leaseNo  = regexp.MustCompile(`"lease":(\d+)`)
)

// leases are the etcd leases of the whole server, in hexadecimal.
func (w *world) leases() []string { return word.FindAllString(w.s.Ctl(w.t, "lease", "list"), -1) }

func (w *world) revision() string {
	return revision.FindStringSubmatch(w.s.Ctl(w.t, "get", "-w", "json", "nothing"))[1]
}

// leaseOf is the etcd lease of a key, in decimal; "0" is none.
func (w *world) leaseOf(key string) string {
	if m := leaseNo.FindStringSubmatch(w.s.Ctl(w.t, "get", "-w", "json", w.prefix+"/subnets/"+key)); m != nil {
		return m[1]
	}
	return "0"
}

// grant makes an etcd lease of so many seconds.
func (w *world) grant(ttl int) string {
	return strings.Fields(w.s.Ctl(w.t, "lease", "grant", fmt.Sprint(ttl)))[1]
}
