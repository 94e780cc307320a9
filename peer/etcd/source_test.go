//go:build linux

package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// value is that of a node with that address.
func value(addr string, n int) string {
	return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}}`, addr, n>>8, n&0xff)
}

// seen is what a watch yielded.
type seen struct {
	list []peer.Peer
	err  error
}

// observe starts a watch, whose lists arrive in order.
func observe(t *testing.T, s *etcd.Store) <-chan seen {
	t.Helper()
	all, done := make(chan seen, 1000), make(chan struct{})
	ctx := within(t, patience)
	go func() {
		defer close(done)
		for list, err := range s.Watch(ctx) {
			all <- seen{list, err}
		}
	}()
	t.Cleanup(func() { <-done })
	return all
}

// next is what comes next, which has to come.
func next(t *testing.T, all <-chan seen) seen {
	t.Helper()
	select {
	case s := <-all:
		return s
	case <-time.After(patience):
		t.Fatal("nothing came")
		return seen{}
	}
}

func quiet(t *testing.T, all <-chan seen) {
	t.Helper()
	select {
	case s := <-all:
		require.Fail(t, "something came", "%v: %v", s.list, s.err)
	case <-time.After(200 * time.Millisecond):
	}
}

func addresses(list []peer.Peer) string {
	var all []string
	for _, p := range list {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

func TestEveryChangeIsAWholeList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	all := observe(t, w.node())
	require.Equal(t, seen{[]peer.Peer{}, nil}, next(t, all), "no peers, and not nothing known")
	w.put("10.244.1.0-24", value("192.0.2.1", 1))
	require.Equal(t, "192.0.2.1", addresses(next(t, all).list))
	w.put("10.244.2.0-24", value("192.0.2.2", 2))
	two := next(t, all).list
	require.Equal(t, "192.0.2.1 192.0.2.2", addresses(two))
	w.put("10.244.1.0-24", value("192.0.2.9", 1))
	require.Equal(t, "192.0.2.9 192.0.2.2", addresses(next(t, all).list))
	require.Equal(t, "192.0.2.1 192.0.2.2", addresses(two), "an earlier list is the caller's")
	w.put("10.244.1.0-24", value("192.0.2.9", 1)) // flanneld renews in this way
	w.put("10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null}`)
	quiet(t, all)
	w.put("10.244.3.0-24", value("192.0.2.3", 3))
	require.Equal(t, "192.0.2.9 192.0.2.2 192.0.2.3", addresses(next(t, all).list))
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.2.0-24")
	require.Equal(t, "192.0.2.9 192.0.2.3", addresses(next(t, all).list))
	w.put("10.244.2.0-24", value("192.0.2.2", 2))
	require.Equal(t, "192.0.2.9 192.0.2.3 192.0.2.2", addresses(next(t, all).list))
	w.s.Ctl(t, "del", "--prefix", w.prefix+"/subnets/")
	last := next(t, all)
	require.NotNil(t, last.list)
	require.Empty(t, last.list)
	quiet(t, all)
}

func TestOneBadKeyIsReportedWithItsNameAndCostsNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.put("10.244.1.0-24", value("192.0.2.1", 1))
	w.put("10.244.4.0-24", value("192.0.2.4", 4))
	s := w.node()
	all := observe(t, s)
	require.Len(t, next(t, all).list, 2)
	for _, c := range []struct{ key, value, want string }{
		{"notes", "hello", `lease notes: key "notes" names no range of ipv4: name it as flannel does, such as "10.244.1.0-24" or "10.244.1.0-24&fd00:10:244:1::-64", or delete it`},
		{"10.244.2.0-24/deep", "{}", `lease 10.244.2.0-24/deep: key "10.244.2.0-24/deep" names no range of ipv4: name it as flannel does, such as "10.244.1.0-24" or "10.244.1.0-24&fd00:10:244:1::-64", or delete it`},
		{"10.244.2.0-24", "{", `lease 10.244.2.0-24: value "{" is not a JSON object: write { "PublicIP": "192.0.2.1" }, or delete the key`},
		{"10.244.2.0-24", `{"PublicIP":"x"}`, `lease 10.244.2.0-24: PublicIP "x" is not an address of ipv4: write the address at which the other nodes reach this one`},
		{"10.244.2.0-24", `{"PublicIP":"192.0.2.2","BackendType":"udp"}`, `lease 10.244.2.0-24: BackendType "udp" is not one that is known here: want one of vxlan, host-gw, ipip, wireguard, gre, geneve`},
		{"10.244.2.0-24", `{"PublicIP":"192.0.2.2","BackendType":"vxlan"}`, `lease 10.244.2.0-24: BackendData.VtepMAC is missing: restart the agent of that node; it publishes the MAC of its device`},
		{"10.244.2.0-24", `{"PublicIP":"127.0.0.1","BackendType":"host-gw"}`, `lease 10.244.2.0-24: endpoint 127.0.0.1 is a loopback address: state the address at which the other nodes reach this one`},
		{"127.0.0.0-8", `{"PublicIP":"192.0.2.2","BackendType":"host-gw"}`, `lease 127.0.0.0-8: pods 127.0.0.0/8 overlaps 127.0.0.0/8, the loopback addresses: state a range of your own, such as 10.244.0.0/16 or one below fd00::/8`},
		{"10.244.1.128-25", value("192.0.2.2", 2), `peer "192.0.2.2": pods 10.244.1.128/25 overlaps pods 10.244.1.0/24 of peer "192.0.2.1": give every peer ranges of its own`},
		{"10.244.2.0-24", value("192.0.2.1", 2), `peers[2]: name "192.0.2.1" is also that of peers[0]: give every peer a name of its own` + "\n" + `peers[2]: endpoint 192.0.2.1 is also that of peers[0]: give every peer an address of its own`},
	} {
		w.put(c.key, c.value)
		bad := next(t, all)
		require.Equal(t, "192.0.2.1 192.0.2.4", addresses(bad.list), c.key)
		require.EqualError(t, bad.err, "etcd keys "+w.prefix+"/subnets/: "+c.want)
		var problems peer.Problems
		require.ErrorAs(t, bad.err, &problems)
		w.put("10.244.4.0-24", value("192.0.2.4", 5)) // others change beside it
		require.EqualValues(t, 5, next(t, all).list[1].V4.MAC[5])
		w.put("10.244.4.0-24", value("192.0.2.4", 4))
		require.Error(t, next(t, all).err)
		quiet(t, all)
		w.s.Ctl(t, "del", w.prefix+"/subnets/"+c.key)
		require.Equal(t, seen{bad.list, nil}, next(t, all), "its end is told")
	}
	quiet(t, all)
}

func TestPeersOutsideOfTheNetworkAreReportedOnceItIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.put("192.168.0.0-24", value("192.0.2.1", 1))
	s := w.node()
	all := observe(t, s)
	require.Len(t, next(t, all).list, 1)
	_, err := s.Config(within(t, patience))
	require.NoError(t, err)
	got := next(t, all)
	require.Empty(t, got.list)
	require.ErrorContains(t, got.err, "lease 192.168.0.0-24: pods 192.168.0.0/24 lies outside of network 10.244.0.0/22: choose a range within, or extend network")
}

func TestTheOlderOfTwoLeasesThatOverlapIsThePeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), smallTwo)
	w.put("10.244.2.0-24&fd00:10:244:9::-64", value("192.0.2.9", 9)) // sorts behind, is older
	w.put("10.244.2.0-24&fd00:10:244:1::-64", value("192.0.2.1", 1))
	all := observe(t, w.node())
	got := next(t, all)
	require.Equal(t, "192.0.2.9", addresses(got.list))
	require.ErrorContains(t, got.err, `peer "192.0.2.1": pods 10.244.2.0/24 overlaps pods 10.244.2.0/24 of peer "192.0.2.9"`)
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.2.0-24&fd00:10:244:9::-64")
	got = next(t, all)
	require.NoError(t, got.err)
	require.Equal(t, "192.0.2.1", addresses(got.list))
}

func TestANodeBearsItsNameAsSoonAsItIsKnownWhichLeaseIsItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	s := w.node()
	all := observe(t, s)
	require.Equal(t, allThree, addresses(next(t, all).list))
	p, err := s.Acquire(within(t, patience), want("a", "192.0.2.2"))
	require.NoError(t, err)
	require.Equal(t, "a", p.Name)
	for got := next(t, all); addresses(got.list) != "192.0.2.1 a 192.0.2.3"; got = next(t, all) {
		require.NoError(t, got.err)
	}
}

func TestABurstComesAsOneList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	lists := 0
	for list, err := range w.node().Watch(within(t, patience)) {
		require.NoError(t, err)
		if lists++; lists == 1 {
			for i := range 50 { // while the caller is busy
				w.put(fmt.Sprintf("10.244.%d.0-24", i), value(fmt.Sprintf("192.0.2.%d", i+1), i+1))
			}
		}
		if len(list) == 50 {
			break
		}
	}
	t.Logf("50 leases came in %d lists", lists-1)
	require.Less(t, lists, 50)
}

func TestTheConfigurationIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), "")
	type told struct {
		flannel.Config
		error
	}
	all, done := make(chan told, 100), make(chan struct{})
	ctx := within(t, patience)
	s := w.node()
	go func() {
		defer close(done)
		for c, err := range s.WatchConfig(ctx) {
			all <- told{c, err}
		}
	}()
	t.Cleanup(func() { <-done })
	require.ErrorContains(t, (<-all).error, "put the network there")
	put := func(v string) { w.s.Ctl(t, "put", w.prefix+"/config", v) }
	put(small)
	got := <-all
	require.NoError(t, got.error)
	require.Equal(t, "10.244.3.0", got.SubnetMax.String())
	require.Equal(t, "vxlan", got.Backend.Type)
	put(strings.ReplaceAll(small, " ", "  ")) // means the same
	put("{")
	bad := <-all
	require.Zero(t, bad.Config)
	require.ErrorContains(t, bad.error, "etcd key "+w.prefix+"/config: the flannel configuration is not a JSON object")
	put(small)
	require.Equal(t, got, <-all)
	w.s.Cut(true)
	down := <-all
	require.Equal(t, got.Config, down.Config, "the last one stands")
	require.Error(t, down.error)
	w.s.Cut(false)
	require.Equal(t, got, <-all)
	w.s.Ctl(t, "del", w.prefix+"/config")
	gone := <-all
	require.Zero(t, gone.Config)
	require.Error(t, gone.error)
	require.False(t, errors.Is(gone.error, peer.ErrLost))
	require.Empty(t, all)
}

func TestAListThatIsGivenBackIsTheMemoryOfALaterOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.put("10.244.1.0-24", value("192.0.2.1", 1))
	s := w.node()
	all := observe(t, s)
	one := next(t, all).list
	w.put("10.244.2.0-24", value("192.0.2.2", 2))
	two := next(t, all).list
	s.Recycle(one)
	w.put("10.244.3.0-24", value("192.0.2.3", 3))
	three := next(t, all).list
	require.Equal(t, allThree, addresses(three))
	require.Equal(t, "192.0.2.1 192.0.2.2", addresses(two), "which was not given back")
	require.Same(t, &one[0], &three[0])
	w.s.Ctl(t, "del", w.prefix+"/subnets/10.244.1.0-24")
	require.Equal(t, "192.0.2.2 192.0.2.3", addresses(next(t, all).list))
	require.Equal(t, allThree, addresses(three))
	s.Recycle(nil)
	w.s.Ctl(t, "del", "--prefix", w.prefix+"/subnets/")
	last := next(t, all)
	require.NotNil(t, last.list, "there is nobody, which is known")
	require.Empty(t, last.list)
}
