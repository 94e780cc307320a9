//go:build linux

package agent_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

var away = flag.Duration("away", 3*time.Second, "for how long the store is away in the test of that; the long form has a minute")

// memory is that of a process, in KiB, and what its last garbage collection left, in MB.
type memory struct{ rss, anonymous, file, heap int }

func (m memory) String() string {
	return fmt.Sprintf("RSS %.1f MB (%.1f of its own, %.1f of the program's file), heap %d MB", float64(m.rss)/1024, float64(m.anonymous)/1024, float64(m.file)/1024, m.heap)
}

// collected is what a process with GODEBUG=gctrace=1 says of a collection: what is left of the heap.
var collected = regexp.MustCompile(`(?m)^gc \d+ @.*->(\d+) MB`)

func (p *process) memory() (m memory) {
	t := p.m.w.t
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	for l := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(l, "VmRSS: %d", &m.rss)
		_, _ = fmt.Sscanf(l, "RssAnon: %d", &m.anonymous)
		_, _ = fmt.Sscanf(l, "RssFile: %d", &m.file)
	}
	b, err = os.ReadFile(p.log.Name())
	require.NoError(t, err)
	all := collected.FindAllSubmatch(b, -1)
	require.NotEmpty(t, all, "no collection was traced")
	_, err = fmt.Sscan(string(all[len(all)-1][1]), &m.heap)
	require.NoError(t, err)
	return m
}

func TestAStoreThatIsAwayUnderChurnCostsNoRouteAndNoMemory(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	const n = 1000
	w := newWorld(t, 1)
	m := w.machines[0]
	s, c := w.storeAt(`{"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.1.0.0", "SubnetMax": "10.9.0.0", "Backend": {"Type": "vxlan"}}`)
	peers := many(n + 100)
	for part := range slices.Chunk(peers[:n], 100) {
		var ops []clientv3.Op
		for _, p := range part {
			key, value := lease(p, "vxlan")
			ops = append(ops, clientv3.OpPut(key, value))
		}
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
	p := m.start([]string{"GODEBUG=gctrace=1"})
	routes := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return m.routes() == n }, soon, 5*time.Millisecond, "%d routes", m.routes())
	}
	routes(n)
	p.ready()
	harm := func(i int) {
		t.Helper()
		in(t, m.ns, []string{"ip route flush proto 117", "ip link del flannel.1", "ip route del 10.128.7.0/24", "ip neigh flush dev flannel.1 nud permanent"}[i%4])
		routes(n)
		require.Eventually(t, func() bool { return strings.Count(in(t, m.ns, "ip neigh show dev flannel.1 nud permanent"), "\n") == n }, soon, 10*time.Millisecond)
	}
	for i := range 8 { // what the first times cost
		harm(i)
	}
	time.Sleep(6 * time.Second) // until what the start needed is given back
	before := p.memory()

	s.Stop(t)
	begin, harms, least := time.Now(), 0, n
	for ; time.Since(begin) < *away; harms++ {
		harm(harms)
		for pause := time.Now(); time.Since(pause) < 500*time.Millisecond; time.Sleep(10 * time.Millisecond) {
			least = min(least, m.routes())
		}
	}
	require.Equal(t, n, least, "no route was lost but by the harms")
	out, err := p.ask()
	require.NoError(t, err, "the node is ready all the time: %s", out)
	require.Contains(t, out, "the last list stays")
	during := p.memory()

	// Others go on while this node does not see the store: peers leave, come, and have other devices.
	in(t, w.wire, "ip link set store down")
	s.Start(t)
	for i, p := range peers[:100] {
		key, value := lease(p, "vxlan")
		if i < 50 {
			s.Ctl(t, "del", key)
		} else {
			s.Ctl(t, "put", key, strings.Replace(value, "02:00:", "02:77:", 1))
		}
	}
	for _, p := range peers[n : n+70] {
		key, value := lease(p, "vxlan")
		s.Ctl(t, "put", key, value)
	}
	require.Equal(t, n, m.routes())
	in(t, w.wire, "ip link set store up")
	back := time.Now()
	routes(n + 20)
	until(t, "all changes", func() bool {
		state := in(t, m.ns, "ip route show proto 117; ip neigh show dev flannel.1 nud permanent")
		device := strings.Contains(state, "02:77:00:00:00:37") // of a peer that has another one
		return device && !strings.Contains(state, peers[7].Pods[0].String()) && strings.Contains(state, peers[n+69].Pods[0].String())
	})
	routes(n + 20)
	t.Logf("the store was away for %s; %d harms meanwhile; in step %s after it was back", back.Sub(begin).Round(time.Second), harms, time.Since(back).Round(time.Millisecond))
	p.ready()

	time.Sleep(3 * time.Second)
	after := p.memory()
	t.Logf("before:     %s", before)
	t.Logf("at the end: %s", during)
	t.Logf("after:      %s", after)
	const room = 4 // MB, for what a collection finds by chance
	require.LessOrEqual(t, during.heap, before.heap+room)
	require.LessOrEqual(t, after.heap, before.heap+room)
}
