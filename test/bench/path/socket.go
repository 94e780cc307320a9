//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// port is that of every listener; namespaces do not share ports.
const port = 7777

// socket is one of the family of the end's address, in its namespace. It waits no longer than patience.
func socket(e end, typ int) (int, error) {
	domain := unix.AF_INET
	if e.addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := e.ns.Socket(domain, typ, 0)
	if err != nil {
		return -1, err
	}
	set := []error{wait(fd)}
	if typ == unix.SOCK_STREAM {
		set = append(set, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	} else {
		set = append(set, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes))
	}
	if err := errors.Join(set...); err != nil {
		closeAll(fd)
		return -1, fmt.Errorf("socket options: %w", err)
	}
	return fd, nil
}

// wait bounds what the socket waits for.
func wait(fd int) error {
	tv := unix.NsecToTimeval(int64(patience))
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
}

// udpPair are two sockets that are connected to each other.
func udpPair(from, to end) (a, b int, err error) {
	if a, err = socket(from, unix.SOCK_DGRAM); err != nil {
		return -1, -1, err
	}
	if b, err = socket(to, unix.SOCK_DGRAM); err != nil {
		closeAll(a)
		return -1, -1, err
	}
	for _, step := range []func() error{
		func() error { return unix.Bind(a, sockaddr(from.addr, port)) },
		func() error { return unix.Bind(b, sockaddr(to.addr, port)) },
		func() error { return unix.Connect(a, sockaddr(to.addr, port)) },
		func() error { return unix.Connect(b, sockaddr(from.addr, port)) },
	} {
		if err := step(); err != nil {
			closeAll(a, b)
			return -1, -1, fmt.Errorf("UDP between %s and %s: %w", from.addr, to.addr, err)
		}
	}
	return a, b, nil
}

func listen(e end) (int, error) {
	fd, err := socket(e, unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sockaddr(e.addr, port)); err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		closeAll(fd)
		return -1, fmt.Errorf("listen on %s: %w", e.addr, err)
	}
	return fd, nil
}

// connect makes a connection to the listener and accepts it.
func connect(from, to end, listener int) (a, b int, err error) {
	if a, err = socket(from, unix.SOCK_STREAM); err != nil {
		return -1, -1, err
	}
	if b, err = join(a, to, listener); err != nil {
		closeAll(a)
		return -1, -1, err
	}
	return a, b, nil
}

// join connects a socket to the listener and accepts it.
func join(a int, to end, listener int) (b int, err error) {
	err = unix.Connect(a, sockaddr(to.addr, port))
	for err == unix.EINTR || err == unix.EALREADY { // goes on meanwhile
		err = unix.Connect(a, sockaddr(to.addr, port))
	}
	if err != nil && err != unix.EISCONN {
		return -1, fmt.Errorf("connect to %s: %w", to.addr, err)
	}
	if b, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return -1, fmt.Errorf("accept on %s: %w", to.addr, err)
	}
	if err := errors.Join(wait(b), unix.SetsockoptInt(b, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		closeAll(b)
		return -1, err
	}
	return b, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
