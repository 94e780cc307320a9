//go:build linux

package dhcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	pluginbridge "github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/dhcp"
	"github.com/cniblocks/cniblocks/plugins/dhcp/lease"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// lab is a node whose bridge br0 leads to a machine with 10.7.0.1, where DHCP servers run.
type lab struct {
	t            *testing.T
	node, server *netns.NS
	dir          string // of the daemons' sockets and notes
	socket       string
	more         string // keys of the netconf's "ipam"
	plugin       cni.Plugin
}

func newLab(t *testing.T) *lab {
	t.Helper()
	nstest.NeedRoot(t)
	w := &lab{t: t, node: nstest.New(t), server: nstest.New(t), dir: t.TempDir(), plugin: pluginbridge.Plugin{}}
	w.socket = filepath.Join(w.dir, "dhcp.sock")
	_, err := bridge.Ensure(t.Context(), w.node, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	nstest.Link(t, nstest.End{NS: w.node, Name: "port"}, nstest.End{NS: w.server, Name: "eth0", Addrs: []string{"10.7.0.1/24"}})
	nstest.Run(t, w.node, "ip", "link", "set", "port", "master", "br0")
	return w
}

// start starts a program in a namespace, and ends it with the test, or when stop is called.
func start(t *testing.T, ns *netns.NS, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, ns.Do(cmd.Start))
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", args[0], said.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

// dnsmasq starts the server that most small networks have, and returns its file of leases.
func (w *lab) dnsmasq(more ...string) (leases string) {
	w.t.Helper()
	_, err := exec.LookPath("dnsmasq")
	require.NoError(w.t, err, "make setup installs dnsmasq-base")
	leases = filepath.Join(w.t.TempDir(), "leases")
	start(w.t, w.server, append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=",
		"--log-facility=-", "--dhcp-authoritative", "--no-ping", "--bind-interfaces", "--interface=eth0",
		"--dhcp-range=10.7.0.50,10.7.0.99,255.255.255.0,1h", "--dhcp-leasefile=" + leases}, more...)...)
	w.until("dnsmasq listens", func() bool { return strings.Contains(nstest.Run(w.t, w.server, "ss", "-Hlun"), ":67 ") })
	return leases
}

// until waits for something that is about to be.
func (w *lab) until(what string, is func() bool) {
	w.t.Helper()
	require.Eventually(w.t, is, 30*time.Second, 20*time.Millisecond, "%s", what)
}

// daemon starts a daemon that shares the notes of those before it.
func (w *lab) daemon() (stop func()) {
	w.t.Helper()
	return w.daemonWith(lease.Times{Request: 4 * time.Second, ResendMax: time.Second, GiveUp: 20 * time.Second})
}

func (w *lab) daemonWith(times lease.Times) (stop func()) {
	w.t.Helper()
	s := dhcp.Settings{Socket: w.socket, Daemon: dhcp.Daemon{Dir: filepath.Join(w.dir, "notes"), Times: times, Log: slog.New(slog.NewTextHandler(testLog{w.t}, nil))}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(w.t, <-done)
	})
	w.t.Cleanup(stop)
	w.until("the daemon listens", func() bool {
		c, err := net.Dial("unix", w.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return stop
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (w *lab) conf() string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": {"type": "dhcp", "daemonSocketPath": %q%s}}`, w.socket, w.more)
}

func (w *lab) call(q cnitest.Request) cnitest.Answer {
	w.t.Helper()
	if q.Config == "" {
		q.Config = w.conf()
	}
	a, err := q.Run(w.t.Context(), w.node, w.plugin, cni.Delegates{"dhcp": dhcp.Plugin{}})
	require.NoError(w.t, err)
	return a
}

// add attaches a container, and returns what ADD printed and the address.
func (w *lab) add(id string, pod *netns.NS) ([]byte, netip.Prefix) {
	w.t.Helper()
	a := w.call(cnitest.Request{ContainerID: id, Pod: pod})
	require.Zero(w.t, a.Status, "%s", a)
	return a.Out, address(w.t, a.Out)
}

func address(t *testing.T, result []byte) netip.Prefix {
	t.Helper()
	var res struct {
		IPs []struct{ Address netip.Prefix }
	}
	require.NoError(t, json.Unmarshal(result, &res))
	require.Len(t, res.IPs, 1, "%s", result)
	return res.IPs[0].Address
}

func (w *lab) has(pod *netns.NS, p netip.Prefix) bool {
	w.t.Helper()
	return strings.Contains(nstest.Run(w.t, pod, "ip", "-4", "address", "show", "dev", "eth0"), " "+p.String()+" ")
}

// server is a DHCP server that does what a test says: it gives one address, for some seconds.
type server struct {
	mu     sync.Mutex
	give   net.IP
	time   time.Duration
	silent bool
	nak    bool
	heard  map[dhcpv4.MessageType]int
	last   map[dhcpv4.MessageType]*dhcpv4.DHCPv4
	from   map[dhcpv4.MessageType]net.Addr
}

func (s *server) set(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }

func (s *server) count(m dhcpv4.MessageType) int { s.mu.Lock(); defer s.mu.Unlock(); return s.heard[m] }

func (w *lab) serve(lifetime time.Duration) *server {
	w.t.Helper()
	s := &server{give: net.IPv4(10, 7, 0, 60), time: lifetime, heard: map[dhcpv4.MessageType]int{}, last: map[dhcpv4.MessageType]*dhcpv4.DHCPv4{}, from: map[dhcpv4.MessageType]net.Addr{}}
	id := net.IPv4(10, 7, 0, 1)
	handle := func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard[m.MessageType()]++
		s.last[m.MessageType()], s.from[m.MessageType()] = m, peer
		kind := dhcpv4.MessageTypeAck
		switch {
		case s.silent || m.MessageType() == dhcpv4.MessageTypeRelease:
			return
		case m.MessageType() == dhcpv4.MessageTypeDiscover:
			kind = dhcpv4.MessageTypeOffer
		case s.nak:
			kind = dhcpv4.MessageTypeNak
		}
		answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(s.give),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(id)), dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(s.time)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(id))
		if err != nil {
			w.t.Error(err)
			return
		}
		_, _ = conn.WriteTo(answer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort})
	}
	var srv *server4.Server
	require.NoError(w.t, w.server.Do(func() (err error) {
		srv, err = server4.NewServer("eth0", &net.UDPAddr{Port: dhcpv4.ServerPort}, handle)
		return err
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve() }()
	w.t.Cleanup(func() { srv.Close(); <-done })
	return s
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}
