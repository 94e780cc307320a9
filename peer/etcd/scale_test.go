//go:build linux

package etcd_test

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
)

// client is etcd's own, without a Store around it.
func client(t testing.TB, s *etcdtest.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{etcdtest.URL}, DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.Dial)}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestThousandsOfLeasesAreReadInOneCallAndFollowedWithoutAny(t *testing.T) {
	w := newWorld(t, etcdtest.New(t), `{ "Network": "10.0.0.0/8", "Backend": { "Type": "vxlan" } }`)
	c := client(t, w.s)
	const n = 5000
	key := func(i int) string { return fmt.Sprintf("%s/subnets/10.%d.%d.0-24", w.prefix, 1+i>>8, i&0xff) }
	val := func(i int) string { return value(fmt.Sprintf("172.16.%d.%d", i>>8, i&0xff), i) }
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := i; j < i+100; j++ {
			ops = append(ops, clientv3.OpPut(key(j), val(j)))
		}
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
	for _, delay := range []time.Duration{0, time.Millisecond} {
		w.s.Slow(delay)
		s := w.node()
		begin, cpu := time.Now(), cpuTime()
		list := first(t, s)
		t.Logf("cold, %s to the store: %d leases in %s, %s of CPU, %d calls", delay, len(list), time.Since(begin).Round(time.Millisecond/10), (cpuTime() - cpu).Round(time.Millisecond/10), s.Status().Calls)
		require.Len(t, list, n)
		require.EqualValues(t, 1, s.Status().Calls, "one ranged read")
	}
	w.s.Slow(0)

	s := w.node()
	all := observe(t, s)
	require.Len(t, next(t, all).list, n)
	require.Eventually(t, func() bool { return s.Status().Calls == 2 }, patience, time.Millisecond, "and one watch")
	var took []time.Duration
	for i := range 101 {
		begin := time.Now()
		_, err := c.Put(t.Context(), key(n+i), val(n+i))
		require.NoError(t, err)
		require.Len(t, next(t, all).list, n+i+1)
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("one lease more: median %s from the begin of its put to the list, at most %s", took[50].Round(time.Microsecond), took[100].Round(time.Microsecond))
	require.EqualValues(t, 2, s.Status().Calls)
	cpu := cpuTime()
	time.Sleep(time.Second)
	t.Logf("idle for a second: %s of CPU of the whole process", (cpuTime() - cpu).Round(time.Microsecond))

	w.s.Ctl(t, "put", w.prefix+"/subnets/10.1.7.0-24", `{"PublicIP":"x"}`) // the slow way
	require.Error(t, next(t, all).err)
	w.s.Ctl(t, "put", w.prefix+"/subnets/10.1.7.0-24", val(8))
	begin := time.Now()
	w.s.Ctl(t, "put", w.prefix+"/subnets/10.1.8.0-24", val(9))
	for got := next(t, all); got.err == nil; got = next(t, all) {
	}
	t.Logf("a lease that conflicts: %s with etcdctl", time.Since(begin).Round(time.Millisecond))

	begin = time.Now()
	p, err := w.node().Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	t.Logf("Acquire of %s among them: %s", p.Pods, time.Since(begin).Round(time.Millisecond))
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	t.Logf("heap %d KB with all of it", mem.HeapAlloc>>10)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
