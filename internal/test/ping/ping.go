//go:build linux

// Package ping asks a host for an echo, from inside any network namespace, without the ping program.
//
// Out of scope: statistics, flooding, name resolution.
package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Interval is the time between two requests of one [Echo].
const Interval = 200 * time.Millisecond

// DefaultTimeout bounds an [Echo] whose options and context name no end.
const DefaultTimeout = 5 * time.Second

// DefaultSize is the payload in bytes where the options name none, as ping(8) has it.
const DefaultSize = 56

// Options of an [Echo]. The zero value is good.
type Options struct {
	From    netip.Addr    // the source address; zero is the kernel's choice
	Size    int           // payload in bytes, see [Payload]; 0 is DefaultSize
	NoFrag  bool          // IPv4: set DF; IPv6: do not fragment; a packet above the path's MTU is then unix.EMSGSIZE
	Timeout time.Duration // 0 is DefaultTimeout, or the context's deadline where that is set
}

// Payload is the size to ask for so that the whole packet to that address measures mtu bytes: the IP header has 20 or
// 40 bytes, the echo header 8.
func Payload(mtu int, to netip.Addr) int {
	if to.Unmap().Is4() {
		return mtu - 20 - 8
	}
	return mtu - 40 - 8
}

// Echo sends a request to the address every [Interval] until one is answered (RFC 792, RFC 4443). It returns early when
// the kernel knows that none will be: what the kernel reports is wrapped (unix.EMSGSIZE, unix.ENETUNREACH,
// unix.EHOSTUNREACH, unix.ECONNREFUSED ...). Silence ends in [os.ErrDeadlineExceeded]. A link-local address needs its
// zone. Needs CAP_NET_RAW in the namespace, or its net.ipv4.ping_group_range.
func Echo(ctx context.Context, ns *netns.NS, to netip.Addr, o Options) error {
	if err := echo(ctx, ns, to.Unmap(), o); err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	return nil
}

func echo(ctx context.Context, ns *netns.NS, to netip.Addr, o Options) error {
	if !to.IsValid() {
		return errors.New("no address given")
	}
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	if o.Size < 0 || o.Size > 65507 {
		return fmt.Errorf("payload of %d bytes: want 1 to 65507", o.Size)
	}
	c, err := open(ns, to, o)
	if err != nil {
		return err
	}
	defer c.f.Close()
	limit := time.Now().Add(DefaultTimeout)
	if o.Timeout > 0 {
		limit = time.Now().Add(o.Timeout)
	}
	if d, ok := ctx.Deadline(); ok && (d.Before(limit) || o.Timeout == 0) {
		limit = d
	}
	stop := context.AfterFunc(ctx, func() { c.f.Close() })
	defer stop()
	err = c.exchange(limit, o.Size)
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	return err
}

// conn is a socket connected to the one that is asked.
type conn struct {
	f   *os.File
	raw bool // replies of all programs arrive, and IPv4 ones with their IP header
	v4  bool
	id  uint16
}

func (c *conn) exchange(limit time.Time, size int) error {
	buf := make([]byte, 65536)
	for seq := uint16(1); ; seq++ {
		now := time.Now()
		if !now.Before(limit) {
			return os.ErrDeadlineExceeded
		}
		if _, err := c.f.Write(c.request(seq, size)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		wait := now.Add(Interval)
		if wait.After(limit) {
			wait = limit
		}
		if err := c.f.SetReadDeadline(wait); err != nil {
			return err
		}
		for {
			n, err := c.f.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if c.answers(buf[:n], size) {
				return nil
			}
		}
	}
}

// request is an echo request: type, code, checksum, identifier, sequence number, payload.
func (c *conn) request(seq uint16, size int) []byte {
	b := make([]byte, 8+size)
	b[0] = 128
	if c.v4 {
		b[0] = 8
	}
	binary.BigEndian.PutUint16(b[4:], c.id)
	binary.BigEndian.PutUint16(b[6:], seq)
	for i := range size {
		b[8+i] = byte(i)
	}
	if c.v4 { // the kernel sums ICMPv6, whose checksum covers a part of the IP header
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

func (c *conn) answers(b []byte, size int) bool {
	if c.raw && c.v4 {
		if len(b) < 20 || len(b) < int(b[0]&0xf)*4 {
			return false
		}
		b = b[int(b[0]&0xf)*4:]
	}
	want := byte(129)
	if c.v4 {
		want = 0
	}
	if len(b) != 8+size || b[0] != want {
		return false
	}
	return !c.raw || binary.BigEndian.Uint16(b[4:]) == c.id
}

// checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func newID() uint16 { return uint16(rand.Uint32()) }
