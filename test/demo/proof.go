//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

const silence = 3 * time.Second // after which a packet counts as lost

// reach pings an address from a namespace.
func reach(ctx context.Context, from *netns.NS, to netip.Addr) (string, error) {
	return to.String() + " answers", ping.Echo(ctx, from, to, ping.Options{Timeout: silence})
}

// seen sends a datagram from one namespace to another and returns the source address that arrives.
func seen(from, to *netns.NS, dst netip.Addr) (netip.Addr, error) {
	listen, err := udp(to, dst)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(listen)
	if err := unix.Bind(listen, sockaddr(netip.AddrPortFrom(dst, 0))); err != nil {
		return netip.Addr{}, fmt.Errorf("bind to %s: %w", dst, err)
	}
	at, err := unix.Getsockname(listen)
	if err != nil {
		return netip.Addr{}, err
	}
	wait := unix.NsecToTimeval(int64(silence))
	if err := unix.SetsockoptTimeval(listen, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return netip.Addr{}, err
	}
	send, err := udp(from, dst)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(send)
	if err := unix.Sendto(send, []byte("hello"), 0, at); err != nil {
		return netip.Addr{}, fmt.Errorf("send to %s: %w", dst, err)
	}
	_, source, err := unix.Recvfrom(listen, make([]byte, 16), 0)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("nothing arrived at %s: %w", dst, err)
	}
	switch s := source.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr), nil
	}
	return netip.Addr{}, fmt.Errorf("a source address of type %T", source)
}

func udp(ns *netns.NS, a netip.Addr) (int, error) {
	if a.Is4() {
		return ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	}
	return ns.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
