//go:build linux

package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// until waits for a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	begin := time.Now()
	require.Eventually(t, f, soon, time.Millisecond, what)
	t.Logf("%s: within %s", what, time.Since(begin).Round(time.Millisecond))
}

func TestAnInterfaceThatFlapsAndAnMTUThatChangesAreFollowed(t *testing.T) {
	t.Parallel()
	for _, encap := range []string{"vxlan", "host-gw"} {
		t.Run(encap, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.VXLAN)
			w := newWorld(t, 2)
			w.peers(w.machines...)
			for _, m := range w.machines {
				m.byFile(encap).Resync = time.Hour
				m.SubnetEnv = filepath.Join(m.dir, "subnet.env")
				m.run()
				m.attach(m.pods...)
				m.ready()
			}
			m := w.machines[0]
			mtu := m.Status().MTU
			v4 := func() bool { return strings.Contains(in(t, m.ns, "ip route show proto 117"), "10.244.2.0/24") }
			in(t, m.ns, "ip link set eth0 down")
			in(t, m.ns, "ip link set eth0 up; ip -6 addr replace 2001:db8::11/64 dev eth0 nodad; ip route replace default via 192.0.2.254")
			until(t, "a flap", func() bool { return m.Status().Ready && v4() && len(m.Status().Refused) == 0 })
			w.reachAll()

			in(t, m.ns, "ip link set eth0 mtu 1400")
			until(t, "another MTU", func() bool { return m.Status().MTU == mtu-100 && m.file().MTU == mtu-100 })
			env, err := os.ReadFile(m.SubnetEnv)
			require.NoError(t, err)
			require.Contains(t, string(env), "FLANNEL_MTU="+map[string]string{"vxlan": "1350", "host-gw": "1400"}[encap]+"\n")
			in(t, m.ns, "ip link set eth0 mtu 1500")
			until(t, "the way back", func() bool { return m.file().MTU == mtu })
		})
	}
}

func TestAnAddressThatChangesIsPublished(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	w := newWorld(t, 2)
	for name, e := range map[int]agent.Endpoints{0: {Interface: regexp.MustCompile(`eth.*`)}, 1: {CanReach: []netip.Addr{netip.MustParseAddr("192.0.2.200")}}} {
		w.machines[name].byEtcd(s, 0).Endpoints = e
	}
	for _, m := range w.machines {
		m.Resync = time.Hour
		m.run()
		m.ready()
		m.pods = m.Status().Ranges
		m.attach(m.pods...)
		require.Equal(t, m.at[0], m.Status().Endpoints[0])
	}
	a, b := w.machines[0], w.machines[1]
	until(t, "the first routes", func() bool { return a.Status().Routes == 1 && b.Status().Routes == 1 })
	w.reachAll()
	in(t, a.ns, "ip addr del 192.0.2.11/24 dev eth0 && sleep 0.1 && ip addr add 192.0.2.31/24 dev eth0 && ip route replace default via 192.0.2.254")
	until(t, "another address", func() bool {
		return a.Status().Ready && a.Status().Endpoints[0].String() == "192.0.2.31" && strings.Contains(b.state(), "dst 192.0.2.31") && !strings.Contains(b.state(), "192.0.2.11 ")
	})
	w.reachAll()
	require.Equal(t, a.pods, a.Status().Ranges)
}

func TestAnAddressThatComesWhileTheAgentLooksIsNotMissed(t *testing.T) {
	t.Parallel()
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, `{"Network": "10.0.0.0/8", "SubnetMax": "10.9.0.0", "Backend": {"Type": "host-gw"}}`)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{etcdtest.URL}, DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.Dial)}, DialTimeout: soon})
	require.NoError(t, err)
	defer c.Close()
	const n = 3000 // so that a look takes a while
	for part := range slices.Chunk(many(n), 100) {
		var ops []clientv3.Op
		for _, p := range part {
			key, value := lease(p, "host-gw")
			ops = append(ops, clientv3.OpPut(key, value))
		}
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
	m := newWorld(t, 1).machines[0]
	nstest.Link(t, nstest.End{NS: m.ns, Name: "way0", Addrs: []string{"198.51.100.1/24"}}, nstest.End{NS: nstest.New(t), Name: "far"})
	in(t, m.ns, "ip route replace default via 198.51.100.2") // else there is no way to the peers without the address
	m.byEtcd(s, 0).Endpoints = agent.Endpoints{Interface: regexp.MustCompile(`eth.*`)}
	m.Resync = time.Hour
	m.run()
	m.ready()
	h := nstest.Netlink(t, m.ns)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	address := func(i int) *netlink.Addr {
		a, err := netlink.ParseAddr(fmt.Sprintf("192.0.2.%d/24", i))
		require.NoError(t, err)
		return a
	}
	for i := range 40 {
		require.NoError(t, h.AddrDel(eth0, address(11+i)))
		time.Sleep(time.Duration(i) * 500 * time.Microsecond) // as long as a look takes, and less
		require.NoError(t, h.AddrAdd(eth0, address(12+i)))
		require.Eventually(t, func() bool {
			s := m.Status()
			return s.Ready && s.Endpoints[0] == netip.AddrFrom4([4]byte{192, 0, 2, byte(12 + i)})
		}, soon, time.Millisecond)
	}
}

func TestAnotherRangeIsFollowedAndTheOldOneGoesWhenNoPodUsesIt(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN, nstest.NFT)
	w := newWorld(t, 2)
	w.peers(w.machines...)
	for _, m := range w.machines {
		m.byFile("vxlan").Resync = 300 * time.Millisecond
		m.run()
		m.attach(m.pods...)
		m.ready()
	}
	a, b := w.machines[0], w.machines[1]
	w.reachAll()
	old, oldPod := a.pods, a.pod
	lease := filepath.Join(a.LeaseDir, "pods", old[0].Addr().Next().Next().String())
	require.NoError(t, os.MkdirAll(filepath.Dir(lease), 0o755))
	require.NoError(t, os.WriteFile(lease, []byte("c1\r\neth0"), 0o600))

	a.pods = []netip.Prefix{netip.MustParsePrefix("10.244.71.0/24"), netip.MustParsePrefix("fd00:10:244:71::/64")}
	w.peers(w.machines...)
	until(t, "another range", func() bool {
		return a.file().Self.Pods[0] == a.pods[0] && strings.Contains(b.state(), "10.244.71.0/24")
	})
	require.Contains(t, a.Status().Former, old[0])
	require.Contains(t, in(t, a.ns, "nft list table inet cniblocks"), "10.244.1.2-10.244.1.255", "old pods are still masqueraded")
	reach(t, oldPod, a.at[0])
	reach(t, a.ns, old[0].Addr().Next().Next())
	in(t, a.ns, "ip link set cni0 name cni1")
	a.attach(a.pods...)
	w.reachAll()

	require.NoError(t, os.Remove(lease))
	until(t, "the end of the old range", func() bool {
		return len(a.Status().Former) == 0 && !strings.Contains(in(t, a.ns, "nft list table inet cniblocks"), "10.244.1.2")
	})
}

// silent is a store that never answers.
type silent struct{}

func (silent) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(func([]peer.Peer, error) bool) { <-ctx.Done() }
}

func (silent) Acquire(ctx context.Context, _ peer.Peer) (peer.Peer, error) {
	<-ctx.Done()
	return peer.Peer{}, ctx.Err()
}
func (silent) Publish(ctx context.Context, _ peer.Reach) error { <-ctx.Done(); return ctx.Err() }
func (silent) Lost(ctx context.Context) error                  { <-ctx.Done(); return ctx.Err() }

func TestAnAgentWhoseStoreNeverAnsweredIsNotReadyAndEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := w.machines[0]
	m.prepare(silent{}, silent{}, agent.Layout{Tunnels: []agent.Tunnel{{Config: overlay.Config{Encap: "host-gw"}}}})
	m.run()
	time.Sleep(1500 * time.Millisecond)
	require.False(t, m.Status().Ready)
	require.Contains(t, m.Status().Reasons, "the peers have not been applied yet")
	require.False(t, m.Status().Source.Up)
	require.Positive(t, m.Status().Source.Lag)
	m.stop()
}

// shifting is a source that yields another list of many peers again and again.
type shifting struct{ peers []peer.Peer }

func (s shifting) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(yield func([]peer.Peer, error) bool) {
		for n := len(s.peers); ctx.Err() == nil; n = len(s.peers) - 500 + (n+100)%500 {
			if !yield(s.peers[:n:n], nil) {
				return
			}
		}
	}
}

func TestAnAgentEndsAtOnceWhateverItDoes(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 1)
	m := w.machines[0]
	peers := many(2000)
	peers[0] = peer.Peer{Name: m.name, Pods: m.pods, Reach: peer.Reach{V4: peer.Endpoint{Addr: m.at[0]}}}
	for _, after := range []time.Duration{0, 2, 5, 10, 20, 50, 100, 300} {
		m.prepare(shifting{peers}, nil, agent.Layout{Tunnels: []agent.Tunnel{{Config: overlay.Config{Encap: "vxlan"}}}})
		m.run()
		time.Sleep(after * time.Millisecond)
		m.stop()
	}
}

// get asks an agent at its socket.
func get(t testing.TB, path, page string) (status int, text string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	r, err := c.Get("http://agent" + page)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

func TestTheAgentAnswersOnASocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("host-gw")
	path := filepath.Join(t.TempDir(), "a", "agent.sock")
	l, err := agent.Listen("unix:" + path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- m.Serve(ctx, l) }()
	defer func() {
		cancel()
		require.NoError(t, <-served)
	}()
	get := func(page string) (int, string) { return get(t, path, page) }
	code, text := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "not been applied")
	m.run()
	m.ready()
	for _, page := range []string{"/healthz", "/readyz"} {
		code, text = get(page)
		require.Equal(t, http.StatusOK, code, text)
	}
	_, text = get("/metrics")
	for _, line := range []string{"cniblocks_ready 1", "cniblocks_peers 2", "cniblocks_routes 2", `cniblocks_repairs_total{cause="event"} `, "cniblocks_source_up 1",
		"cniblocks_source_lag_seconds 0", "cniblocks_set_seconds_count 1", "cniblocks_mtu_bytes 1500", "process_cpu_seconds_total "} {
		require.Contains(t, text, line)
	}
	_, text = get("/status")
	var s agent.Status
	require.NoError(t, json.Unmarshal([]byte(text), &s))
	require.Equal(t, "a", s.Node)
	require.Equal(t, m.pods, s.Ranges)
	code, _ = get("/secrets")
	require.Equal(t, http.StatusNotFound, code)

	_, err = agent.Listen("unix:" + path)
	require.ErrorContains(t, err, "another process serves it")
	_, err = agent.Listen("192.0.2.1:80")
	require.ErrorContains(t, err, "loopback")
}

func TestTheConflistComesAfterTheFirstFullApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	m := w.machines[0]
	from, to := filepath.Join(w.dir, "from"), filepath.Join(w.dir, "net.d", "10-pods.conflist")
	require.NoError(t, os.WriteFile(from, []byte(`{"name":"pods"}`), 0o600))
	m.byFile("host-gw").Conflist = agent.Conflist{From: from, To: to}
	m.run()
	until(t, "a complaint about the file", func() bool { return m.Status().Source.Error != "" })
	require.NoFileExists(t, to)
	w.peers(w.machines...)
	m.ready()
	b, err := os.ReadFile(to)
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"pods"}`, string(b))
}

func TestASecondAgentOfANetworkWaitsForTheEndOfTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("host-gw")
	m.run()
	m.ready()
	stop := m.stop
	second := m.byFile("host-gw")
	m.run()
	time.Sleep(200 * time.Millisecond)
	require.False(t, second.Status().Ready)
	m.stop() // without an error, though it never began
	second = m.byFile("host-gw")
	m.run()
	require.False(t, second.Status().Ready)
	stop()
	m.ready()
}
