//go:build linux

// Package etcdtest gives tests an etcd of their own: the real program, in a network namespace where nobody else is, with
// its data in a directory that goes with the test.
package etcdtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	host = "127.0.0.1:2379"

	// URL is the endpoint of every server, for [Server.Dial].
	URL = "http://" + host
)

// Server is one member that is a cluster.
type Server struct {
	NS   *netns.NS
	args []string
	dir  string
	cmd  *exec.Cmd
	died chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	delay time.Duration
	down  bool
}

// New starts a server, which is stopped at the end of the test. It skips the test where the program is missing. More
// arguments come after its own.
func New(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{NS: nstest.New(t), args: args, dir: t.TempDir(), conns: map[net.Conn]struct{}{}}
	s.Start(t)
	t.Cleanup(func() { s.kill() })
	return s
}

// Start starts a server that was stopped, with the data that it had.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	for _, program := range []string{"etcd", "etcdctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("lane: %v; apt-get install etcd-server etcd-client", err)
		}
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	args := append([]string{"--data-dir", filepath.Join(s.dir, "data"), "--unsafe-no-fsync",
		"--listen-client-urls", URL, "--advertise-client-urls", URL, "--heartbeat-interval=50", "--election-timeout=500"}, s.args...)
	s.cmd = exec.Command("etcd", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	require.NoError(t, s.NS.Do(s.cmd.Start))
	cmd, died := s.cmd, make(chan struct{})
	s.died = died
	go func() {
		defer close(died)
		_ = cmd.Wait() // it is killed
	}()
	require.NoError(t, s.await(), "etcd did not come up: %s", tail(log.Name()))
}

func (s *Server) await() error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = s.dial(context.Background(), host); err == nil {
			return c.Close()
		}
		select {
		case <-s.died:
			return errors.New("it has ended")
		default:
		}
	}
	return err
}

func tail(path string) string {
	b, _ := os.ReadFile(path)
	return string(b[max(0, len(b)-2000):])
}

// Stop stops the server, and waits until it has ended.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.kill()
}

func (s *Server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.died
	s.cmd = nil
}

// Ctl runs etcdctl on the server and returns what it printed.
func (s *Server) Ctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.TryCtl(args...)
	require.NoError(t, err, "etcdctl %q: %s", args, out)
	return out
}

// TryCtl is Ctl for what may fail.
func (s *Server) TryCtl(args ...string) (string, error) {
	cmd := exec.Command("etcdctl", append([]string{"--endpoints", URL, "--command-timeout", "60s", "--dial-timeout", "60s"}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.NS.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func (s *Server) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	ns := s.NS.Share() // a client that is closed may still be about to connect
	defer ns.Close()
	if e := ns.Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return nil
	}); e != nil {
		return nil, e
	}
	return c, err
}

// Dial connects to an address in the server's namespace from anywhere, by the way that [Server.Slow] and [Server.Cut] make
// worse.
func (s *Server) Dial(ctx context.Context, addr string) (net.Conn, error) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
	}
	c, err := s.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	w := &conn{Conn: c, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[w] = struct{}{}
	return w, nil
}

// Slow makes everything that the server answers late by d.
func (s *Server) Slow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Cut breaks all connections, and lets none come up until it is called with false.
func (s *Server) Cut(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		for c := range s.conns {
			c.(*conn).Conn.Close()
		}
	}
}

type conn struct {
	net.Conn
	s *Server
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.s.mu.Lock()
	d := c.s.delay
	c.s.mu.Unlock()
	time.Sleep(d)
	return n, err
}

func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
