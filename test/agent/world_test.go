//go:build linux

package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

func TestMain(m *testing.M) { nstest.Main(m, removeProgram) }

// soon is how long a test waits for what an agent does at once; a virtual machine without hardware support is slow.
const soon = 3 * time.Minute

// world is machines on one link.
type world struct {
	t        testing.TB
	wire     *netns.NS
	machines []*machine
	dir      string
}

// machine is a namespace with eth0, a bridge cni0 as a plugin would make it and one pod on it.
type machine struct {
	w    *world
	name string
	ns   *netns.NS
	pod  *netns.NS
	at   [2]netip.Addr
	pods []netip.Prefix
	dir  string

	*agent.Agent
	stop func()
}

func newWorld(t testing.TB, machines int) *world {
	t.Helper()
	wire := lab.NewWire(t)
	w := &world{t: t, wire: wire.NS, dir: t.TempDir()}
	for i := range machines {
		m := &machine{w: w, name: string(rune('a' + i)), ns: nstest.New(t), dir: filepath.Join(w.dir, string(rune('a'+i))),
			at:   [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 11+i))},
			pods: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i+1))}}
		wire.Join(m.ns, m.name, 11+i)
		nstest.AddRoute(t, m.ns, "default", "192.0.2.254")
		nstest.Settle(t, m.ns)
		w.machines = append(w.machines, m)
	}
	return w
}

// attach gives the machine a pod in a range of each family, as a plugin would.
func (m *machine) attach(ranges ...netip.Prefix) {
	m.w.t.Helper()
	m.pod = nstest.New(m.w.t)
	var host, pod []string
	for _, r := range ranges {
		gw := r.Addr().Next()
		host = append(host, netip.PrefixFrom(gw, r.Bits()).String())
		pod = append(pod, netip.PrefixFrom(gw.Next(), r.Bits()).String())
	}
	nstest.Sysctl(m.w.t, m.pod, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(m.w.t, nstest.End{NS: m.ns, Name: "cni0", Addrs: host}, nstest.End{NS: m.pod, Name: "eth0", Addrs: pod})
	for _, r := range ranges {
		nstest.AddRoute(m.w.t, m.pod, "default", r.Addr().Next().String())
	}
}

// podAddrs are those of the machine's pod.
func (m *machine) podAddrs(ranges ...netip.Prefix) (all []netip.Addr) {
	for _, r := range ranges {
		all = append(all, r.Addr().Next().Next())
	}
	return all
}

// peers writes a peers file that names the machines.
func (w *world) peers(machines ...*machine) string {
	w.t.Helper()
	n := peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}
	for _, m := range machines {
		n.Peers = append(n.Peers, peer.Peer{Name: m.name, Pods: m.pods, Reach: peer.Reach{V4: peer.Endpoint{Addr: m.at[0]}, V6: peer.Endpoint{Addr: m.at[1]}}})
	}
	return w.write(n)
}

// keyed is peers with all machines, whose agents are prepared, and with their WireGuard keys.
func (w *world) keyed() {
	w.t.Helper()
	n := peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}
	for _, m := range w.machines {
		k, err := overlay.WireGuard{KeyDir: m.DataDir}.PublicKey("pods")
		require.NoError(w.t, err)
		n.Peers = append(n.Peers, peer.Peer{Name: m.name, Pods: m.pods, Reach: peer.Reach{V4: peer.Endpoint{Addr: m.at[0], PublicKey: k}}})
	}
	w.write(n)
}

func (w *world) write(n peer.Network) string {
	w.t.Helper()
	path := filepath.Join(w.dir, "peers.json")
	require.NoError(w.t, os.WriteFile(path+".new", peer.Format(n), 0o600))
	require.NoError(w.t, os.Rename(path+".new", path))
	return path
}

// byFile prepares an agent that follows the peers file.
func (m *machine) byFile(encap string) *agent.Agent {
	return m.prepare(file.Source{Path: filepath.Join(m.w.dir, "peers.json")}, nil,
		agent.Layout{Tunnels: []agent.Tunnel{{Config: overlay.Config{Encap: encap}}}})
}

func (m *machine) prepare(s peer.Source, r peer.Registrar, l agent.Layout) *agent.Agent {
	m.Agent = &agent.Agent{NS: m.ns, Network: "pods", Name: m.name, Source: s, Registrar: r,
		Layout:   func(context.Context) (agent.Layout, error) { return l, nil },
		SNAT:     agent.SNAT{Families: masq.Families{V4: true, V6: true}},
		StateDir: filepath.Join(m.dir, "run"), DataDir: filepath.Join(m.dir, "lib"), LeaseDir: filepath.Join(m.dir, "leases"),
		Log: slog.New(slog.NewTextHandler(testLog{m.w.t, m.name}, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return m.Agent
}

// testLog hands lines to the test's log.
type testLog struct {
	t    testing.TB
	name string
}

func (l testLog) Write(b []byte) (int, error) {
	_, rest, _ := strings.Cut(string(b), "level=")
	l.t.Logf("%s %s: %s", time.Now().Format("05.000"), l.name, strings.TrimSpace(rest))
	return len(b), nil
}

// saying has a prepared agent's log written down beside; it returns what it says of warnings and errors.
func (m *machine) saying() func() string { return m.logging(slog.LevelWarn) }

// logging is saying from a level on.
func (m *machine) logging(from slog.Level) func() string {
	var mu sync.Mutex
	var b strings.Builder
	m.Log = slog.New(slog.NewMultiHandler(m.Log.Handler(), slog.NewTextHandler(writer(func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		b.Write(p)
	}), &slog.HandlerOptions{Level: from})))
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

// run starts the prepared agent; it ends with the test at the latest.
func (m *machine) run() {
	m.w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	a := m.Agent
	go func() { done <- a.Run(ctx) }()
	ended := false
	m.stop = func() {
		if !ended {
			ended = true
			begin := time.Now()
			cancel()
			require.NoError(m.w.t, <-done)
			m.w.t.Logf("%s: the agent ended within %s", m.name, time.Since(begin))
		}
	}
	m.w.t.Cleanup(m.stop)
}

// heartbeat is that of the agent.
const heartbeat = 2 * time.Second

// file is what the agent tells the plugins.
func (m *machine) file() node.File {
	m.w.t.Helper()
	f, err := node.Read(m.ns, filepath.Join(m.dir, "run", "pods", "node.json"))
	require.NoError(m.w.t, err)
	require.True(m.w.t, f.Agent)
	return f
}

func (m *machine) ready() {
	m.w.t.Helper()
	require.Eventually(m.w.t, func() bool { return m.Status().Ready }, soon, 2*time.Millisecond, "%s: %v", m.name, func() string {
		b, _ := json.Marshal(m.Status())
		return string(b)
	})
}

// reach sends an echo request and waits for its answer.
func reach(t testing.TB, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}), "ping %s", to)
}

// pods has the pods of all machines reach each other.
func (w *world) reachAll() {
	w.t.Helper()
	for _, from := range w.machines {
		for _, to := range w.machines {
			for _, a := range to.podAddrs(to.pods...) {
				if from != to {
					reach(w.t, from.pod, a)
				}
			}
		}
	}
}
