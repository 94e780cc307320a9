//go:build linux

package scratch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

const (
	pingInterval = 20 * time.Millisecond  // until the next request, without a reply
	retryDelay   = 100 * time.Microsecond // until the next attempt, where the kernel refuses to send yet
)

// Ping sends echo requests (RFC 792, RFC 4443) from the pod until one is answered, and returns the time since the call
// and the number of requests that it took. No reply until the timeout is an error.
func (p *Pod) Ping(dst netip.Addr, timeout time.Duration) (time.Duration, int, error) {
	ns, err := p.NS()
	if err != nil {
		return 0, 0, err
	}
	s, err := echoSocket(ns, dst.Is6())
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	var last error
	for sent := 0; time.Since(start) < timeout; {
		p.seq++
		if last = s.send(dst, p.seq); last != nil {
			time.Sleep(retryDelay)
			continue
		}
		sent++
		ok, err := s.reply(dst, p.seq)
		if err != nil {
			return 0, sent, err
		}
		if ok {
			return time.Since(start), sent, nil
		}
	}
	return 0, 0, errors.Join(fmt.Errorf("no reply from %s within %s", dst, timeout), last)
}

type echo struct {
	fd int
	v6 bool
}

func echoSocket(ns *netns.NS, v6 bool) (*echo, error) {
	type key struct{ v6 bool }
	c, err := ns.Keep(key{v6}, func() (io.Closer, error) {
		domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
		if v6 {
			domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		}
		fd, err := ns.Socket(domain, unix.SOCK_RAW, proto)
		if err != nil {
			return nil, err
		}
		tv := unix.NsecToTimeval(int64(pingInterval))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			unix.Close(fd)
			return nil, err
		}
		return &echo{fd: fd, v6: v6}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("socket for ping: %w", err)
	}
	return c.(*echo), nil
}

func (e *echo) Close() error { return unix.Close(e.fd) }

const (
	echoID     = 0x6362
	request4   = 8
	reply4     = 0
	request6   = 128
	reply6     = 129
	headerSize = 8
)

func (e *echo) send(dst netip.Addr, seq uint16) error {
	var b [headerSize + 8]byte
	b[0] = request4
	if e.v6 {
		b[0] = request6 // the kernel fills in the checksum
	}
	binary.BigEndian.PutUint16(b[4:], echoID)
	binary.BigEndian.PutUint16(b[6:], seq)
	if !e.v6 {
		binary.BigEndian.PutUint16(b[2:], checksum(b[:]))
		return unix.Sendto(e.fd, b[:], 0, &unix.SockaddrInet4{Addr: dst.As4()})
	}
	return unix.Sendto(e.fd, b[:], 0, &unix.SockaddrInet6{Addr: dst.As16()})
}

// reply waits for the answer to the request of that number.
func (e *echo) reply(src netip.Addr, seq uint16) (bool, error) {
	deadline := time.Now().Add(pingInterval)
	for time.Now().Before(deadline) {
		var b [128]byte
		n, from, err := unix.Recvfrom(e.fd, b[:], 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("receive echo reply: %w", err)
		}
		if sender(from) == src && isReply(b[:n], e.v6, seq) {
			return true, nil
		}
	}
	return false, nil
}

func sender(from unix.Sockaddr) netip.Addr {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// isReply looks at a packet as a raw socket gives it: with the IP header for IPv4, without for IPv6.
func isReply(b []byte, v6 bool, seq uint16) bool {
	kind := byte(reply6)
	if !v6 {
		kind = reply4
		if len(b) == 0 || len(b) < int(b[0]&0xf)*4 {
			return false
		}
		b = b[int(b[0]&0xf)*4:]
	}
	return len(b) >= headerSize && b[0] == kind &&
		binary.BigEndian.Uint16(b[4:]) == echoID && binary.BigEndian.Uint16(b[6:]) == seq
}

// checksum is that of RFC 1071, over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
