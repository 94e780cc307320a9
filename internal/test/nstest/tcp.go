//go:build linux

package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Listen listens for TCP in the namespace; port 0 is the kernel's choice. The listener is closed at the end of the test.
// The socket is made by hand because package net probes the families once for a process, in whatever namespace it is.
func Listen(t testing.TB, ns *netns.NS, at netip.AddrPort) net.Listener {
	t.Helper()
	f, err := tcpSocket(ns, at.Addr())
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, control(f, func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 128))
	}), "listen on %s", at)
	l, err := net.FileListener(f)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// Serve sends back whatever it receives over TCP, until the end of the test. It returns the address with the port that it
// took.
func Serve(t testing.TB, ns *netns.NS, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	l := Listen(t, ns, at)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns = map[net.Conn]bool{}
		over  bool
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if over {
				c.Close()
			}
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				// From one TCP connection to another io.Copy would use pipes, which package net keeps open for the next.
				if _, err := io.Copy(struct{ io.Writer }{c}, c); err == nil {
					_ = c.(*net.TCPConn).CloseWrite()
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		over = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return netip.AddrPortFrom(at.Addr(), uint16(l.Addr().(*net.TCPAddr).Port))
}

// Dial connects over TCP from the namespace.
func Dial(ctx context.Context, ns *netns.NS, to netip.AddrPort) (net.Conn, error) {
	f, err := tcpSocket(ns, to.Addr())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := connect(ctx, f, to); err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return net.FileConn(f)
}

func connect(ctx context.Context, f *os.File, to netip.AddrPort) error {
	err := control(f, func(fd int) error { return unix.Connect(fd, sockaddr(to)) })
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	for ctx.Err() == nil {
		var ready int
		err := control(f, func(fd int) (err error) {
			ready, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10)
			if ready > 0 && err == nil {
				var code int
				if code, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); code != 0 {
					err = unix.Errno(code)
				}
			}
			return err
		})
		if ready > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// Stream sends that many bytes to a [Serve] and reads them back. It fails when they differ, or when ctx ends.
func Stream(ctx context.Context, from *netns.NS, to netip.AddrPort, size int) error {
	c, err := Dial(ctx, from, to)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i ^ i>>8 ^ i>>16)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil { // else the writer waits for a window that nobody opens
		c.Close()
	}
	if err := errors.Join(err, <-wrote, ctx.Err()); err != nil {
		return fmt.Errorf("stream to %s, %d of %d bytes came back: %w", to, len(got), size, err)
	}
	if !bytes.Equal(sent, got) {
		return fmt.Errorf("stream to %s: sent %d bytes, got %d, or others", to, size, len(got))
	}
	return nil
}

func tcpSocket(ns *netns.NS, a netip.Addr) (*os.File, error) {
	domain := unix.AF_INET6
	if a.Is4() {
		domain = unix.AF_INET
	}
	fd, err := ns.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tcp socket"), nil
}

func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) { inner = do(int(fd)) })
	return errors.Join(err, inner)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
