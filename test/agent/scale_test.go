//go:build linux

package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/peer"
)

// many are peers that nobody is, behind the router or, with an address in 198.18.0.0/15, on the link.
func many(n int) []peer.Peer {
	all := make([]peer.Peer, n)
	for i := range all {
		all[i] = peer.Peer{Name: fmt.Sprintf("n%05d", i), Pods: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + byte(i>>8), byte(i), 0}), 24)},
			Reach: peer.Reach{Encap: "vxlan", V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i) | 1}), MAC: inet.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}}}
		if i%2 == 0 {
			all[i].V4.Addr = netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i) | 1})
		}
	}
	return all
}

// lease is a peer as flannel writes it.
func lease(p peer.Peer, encap string) (key, value string) {
	v := map[string]any{"PublicIP": p.V4.Addr, "PublicIPv6": nil, "BackendType": encap}
	if encap == "vxlan" {
		v["BackendData"] = map[string]any{"VNI": 1, "VtepMAC": p.V4.MAC}
	}
	b, _ := json.Marshal(v)
	return subnetsKey + strings.ReplaceAll(p.Pods[0].String(), "/", "-"), string(b)
}

var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("cniblocks-agent-test-%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-o", path, "github.com/cniblocks/cniblocks/cmd/cniblocks")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// process is the program as an agent of the machine.
type process struct {
	m   *machine
	cmd *exec.Cmd
	log *os.File
}

// start starts the agent of a network in etcd at 192.0.2.254, behind the words of a tracer if there are any.
func (m *machine) start(env []string, args ...string) *process {
	t := m.w.t
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	p := &process{m: m}
	p.log, err = os.OpenFile(filepath.Join(m.w.dir, m.name+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	require.NoError(t, err)
	words := []string{path, "agent", "--source", "etcd://192.0.2.254:2379", "--network", "pods", "--node", m.name, "--node-ip", m.at[0].String(),
		"--state-dir", filepath.Join(m.dir, "run"), "--data-dir", filepath.Join(m.dir, "lib"), "--lease-dir", filepath.Join(m.dir, "leases"),
		"--subnet-file", filepath.Join(m.dir, "subnet.env")}
	for i, a := range args {
		if a == "--" { // what stands behind it runs the program
			words, args = append(slices.Clone(args[i+1:]), words...), args[:i]
			break
		}
	}
	p.cmd = exec.Command(words[0], append(words[1:], args...)...)
	p.cmd.Stderr, p.cmd.Env = p.log, append(os.Environ(), env...)
	require.NoError(t, m.ns.Do(p.cmd.Start))
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	pid := p.cmd.Process.Pid
	if kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)); err == nil && len(kids) > 0 { // of a tracer
		_, _ = fmt.Sscan(string(kids), &pid)
	}
	_ = unix.Kill(pid, unix.SIGTERM)
	begin := time.Now()
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil && p.m.w.t.Failed() {
		b, _ := os.ReadFile(p.log.Name())
		p.m.w.t.Logf("%v: %s", err, b)
	}
	_ = p.log.Close()
	if testing.Verbose() {
		b, _ := os.ReadFile(p.log.Name())
		p.m.w.t.Logf("%s", b)
	}
	p.m.w.t.Logf("the process ended within %s", time.Since(begin).Round(100*time.Microsecond))
}

// ask has the program print the status of the agent.
func (p *process) ask(args ...string) (string, error) {
	path, err := program()
	require.NoError(p.m.w.t, err)
	out, err := exec.Command(path, append([]string{"status", "pods", "--state-dir", filepath.Join(p.m.dir, "run")}, args...)...).CombinedOutput()
	return string(out), err
}

func (p *process) ready() {
	p.m.w.t.Helper()
	require.Eventually(p.m.w.t, func() bool { _, err := p.ask(); return err == nil }, soon, 20*time.Millisecond, func() string {
		b, _ := os.ReadFile(p.log.Name())
		return string(b)
	}())
}

// used is the processor time of the process, and its memory now and at most, in KiB.
func (p *process) used() (cpu time.Duration, rss, most int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	require.NoError(p.m.w.t, err)
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	file := 0 // the program itself, which all processes share
	defer func() {
		p.m.w.t.Logf("of %.1f MB %.1f are the program's own file", float64(rss)/1024, float64(file)/1024)
	}()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.m.w.t, err)
	for l := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(l, "VmRSS: %d", &rss)
		_, _ = fmt.Sscanf(l, "VmHWM: %d", &most)
		_, _ = fmt.Sscanf(l, "RssFile: %d", &file)
	}
	return time.Duration(user+system) * 10 * time.Millisecond, rss, most
}

// storeAt starts an etcd that the machines reach at 192.0.2.254, and connects to it.
func (w *world) storeAt(config string, args ...string) (*etcdtest.Server, *clientv3.Client) {
	w.t.Helper()
	s := etcdtest.New(w.t, append([]string{"--listen-client-urls", "http://0.0.0.0:2379", "--quota-backend-bytes", "1000000000"}, args...)...)
	nstest.Link(w.t, nstest.End{NS: s.NS, Name: "eth0", Addrs: []string{"192.0.2.254/24"}}, nstest.End{NS: w.wire, Name: "store"})
	in(w.t, w.wire, "ip link set store master wire")
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{etcdtest.URL}, DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.Dial)}, DialTimeout: soon})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, c.Close()) })
	_, err = c.Put(w.t.Context(), configKey, config)
	require.NoError(w.t, err)
	return s, c
}

func TestThousandsOfLeases(t *testing.T) {
	for _, encap := range []string{"vxlan", "host-gw"} {
		for _, n := range []int{1000, 5000} {
			t.Run(fmt.Sprintf("%s %d", encap, n), func(t *testing.T) {
				nstest.Need(t, nstest.VXLAN, nstest.NFT)
				w := newWorld(t, 1)
				m := w.machines[0]
				nstest.AddAddrs(t, m.ns, "eth0", "198.18.0.2/15")
				_, c := w.storeAt(fmt.Sprintf(`{"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.1.0.0", "SubnetMax": "10.9.0.0", "Backend": {"Type": %q}}`, encap))
				peers := many(n + 100)
				for part := range slices.Chunk(peers[:n], 100) {
					var leases, claims []clientv3.Op
					for _, p := range part {
						key, value := lease(p, encap)
						name := strings.TrimPrefix(key, subnetsKey)
						leases, claims = append(leases, clientv3.OpPut(key, value)), append(claims, clientv3.OpPut("/cniblocks/claims/coreos.com/network/"+name, name))
					}
					for _, ops := range [][]clientv3.Op{leases, claims} {
						_, err := c.Txn(t.Context()).Then(ops...).Commit()
						require.NoError(t, err)
					}
				}
				path, err := program() // built before the clock runs
				require.NoError(t, err)
				require.FileExists(t, path)

				begin := time.Now()
				p := m.start(nil)
				require.Eventually(t, func() bool { return m.routes() >= n }, soon, 5*time.Millisecond)
				last := time.Since(begin)
				p.ready()
				cpu, rss, most := p.used()
				t.Logf("cold start: last of %d routes after %s, ready by %s; CPU %s, RSS %.1f MB, at most %.1f MB", n, last.Round(time.Millisecond),
					time.Since(begin).Round(time.Millisecond), cpu, float64(rss)/1024, float64(most)/1024)
				require.Equal(t, n, m.routes())
				t.Logf("calls to the store so far: %s", p.metric("cniblocks_source_calls_total"))

				time.Sleep(5 * time.Second) // what is kept on disk is written
				idle, _, _ := p.used()
				time.Sleep(5 * time.Second)
				after, rss, _ := p.used()
				t.Logf("idle: CPU %s in 5 s, RSS %.1f MB", after-idle, float64(rss)/1024)

				m.appear(c, peers[n:], encap)
				_, rss, most = p.used()
				t.Logf("after these: RSS %.1f MB, at most %.1f MB since the start", float64(rss)/1024, float64(most)/1024)

				p.stop()
				said := quiet(t, m.ns)
				begin = time.Now()
				p = m.start(nil)
				p.ready()
				cpu, _, _ = p.used()
				t.Logf("warm restart: ready by %s, CPU %s", time.Since(begin).Round(time.Millisecond), cpu)
				require.Empty(t, said())
				p.stop()

				if strace, err := exec.LookPath("strace"); err == nil && n == 1000 {
					sum := filepath.Join(w.dir, "calls")
					p = m.start(nil, "--", strace, "-f", "-c", "-o", sum)
					p.ready()
					p.stop()
					b, err := os.ReadFile(sum)
					require.NoError(t, err)
					lines := strings.Split(strings.TrimSpace(string(b)), "\n")
					t.Logf("system calls of a warm restart:\n%s\n%s", strings.Join(lines[:min(len(lines), 10)], "\n"), lines[len(lines)-1])
				}
			})
		}
	}
}

// routes counts ours.
func (m *machine) routes() int {
	c, err := rtnl.Open(m.ns)
	require.NoError(m.w.t, err)
	routes, err := c.Routes(rtnl.RouteFilter{Proto: 117, Table: unix.RT_TABLE_MAIN})
	require.NoError(m.w.t, err)
	return len(routes)
}

func (p *process) metric(name string) string {
	p.m.w.t.Helper()
	_, page := get(p.m.w.t, filepath.Join(p.m.dir, "run", "pods", "agent.sock"), "/metrics")
	for l := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(l, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	require.Fail(p.m.w.t, "no such metric", name)
	return ""
}

// appear adds leases one after the other, and takes the time from before the write until the route and, with vxlan, the
// FDB entry are announced.
func (m *machine) appear(c *clientv3.Client, peers []peer.Peer, encap string) {
	t := m.w.t
	mon, err := rtnl.OpenMonitor(m.ns, 0)
	require.NoError(t, err)
	if encap == "vxlan" {
		l, err := nstest.Netlink(t, m.ns).LinkByName("flannel.1")
		require.NoError(t, err)
		require.NoError(t, mon.Follow(l.Attrs().Index))
	}
	seen := make(chan any, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for mon.Receive(func(e *rtnl.Event) {
			switch {
			case e.Gone:
			case e.Subject == rtnl.RouteEvent:
				seen <- e.Route.Dst
			case e.Subject == rtnl.FDBEvent:
				seen <- e.FDB.Dst
			}
		}) == nil {
		}
	}()
	defer func() {
		require.NoError(t, mon.Close())
		<-ended
	}()
	var took []time.Duration
	for _, p := range peers {
		key, value := lease(p, encap)
		begin := time.Now()
		_, err := c.Put(t.Context(), key, value)
		require.NoError(t, err)
		left := map[any]bool{p.Pods[0]: true}
		if encap == "vxlan" {
			left[p.V4.Addr] = true
		}
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		for len(left) > 0 {
			select {
			case what := <-seen:
				delete(left, what)
			case <-ctx.Done():
				require.Fail(t, "not in the kernel", "%v", left)
			}
		}
		cancel()
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("from the write of a lease to route and FDB entry: median %s, 90 %% within %s, at most %s", took[len(took)/2], took[len(took)*9/10], took[len(took)-1])
}

func removeProgram() {
	_ = os.Remove(filepath.Join(os.TempDir(), fmt.Sprintf("cniblocks-agent-test-%d", os.Getpid())))
}
