//go:build linux

// Package rtnl is the one place that knows rtnetlink(7): typed requests and replies over a socket that is bound to a
// network namespace for life.
//
// Writes go out in batches: all messages of a [Conn.Do] are one system call, and one acknowledgement answers them.
// "Not there" is [io/fs.ErrNotExist] whatever errno the kernel chose, "taken" is [io/fs.ErrExist]. Dumps that the kernel
// reports as interrupted are repeated.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

var native = binary.NativeEndian

const (
	headerLen   = 16
	receiveSize = 64 << 10 // the kernel's dumps use at most 32 KiB a message
)

// Conn is an rtnetlink socket in one namespace. It may be used by several goroutines.
type Conn struct {
	mu     sync.Mutex
	fd     int
	seq    uint32
	strict bool
	buf    []byte
	batch  batch
}

type connKey struct{}

// Open returns the socket of this process in ns. It is closed with ns.
func Open(ns *netns.NS) (*Conn, error) {
	c, err := ns.Keep(connKey{}, func() (io.Closer, error) { return dial(ns, 0) })
	if err != nil {
		return nil, err
	}
	return c.(*Conn), nil
}

// Dial returns another socket in ns, for a dump beside one that is under way. The caller closes it.
func Dial(ns *netns.NS) (*Conn, error) { return dial(ns, 0) }

func dial(ns *netns.NS, groups uint32) (*Conn, error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if groups != 0 {
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("bind rtnetlink socket: %w", err)
		}
	}
	// Both only make errors shorter and clearer; a kernel without them is none that we support.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Conn{fd: fd}, nil
}

// Close closes the socket. What [Open] returned is closed by its namespace.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Error is a refusal by the kernel.
type Error struct {
	Op    string // what was asked, such as "add link veth0"
	Errno unix.Errno
	Text  string // the kernel's own explanation, may be empty
}

func (e *Error) Error() string {
	why := e.Errno.Error()
	if e.Errno == unix.ESRCH {
		why = "it is not there" // the system's text speaks of a process
	}
	if e.Text != "" {
		why += " (" + e.Text + ")"
	}
	return e.Op + ": " + why
}

func (e *Error) Unwrap() error { return e.Errno }

// Is makes one kind of the many errnos that say "not there".
func (e *Error) Is(target error) bool {
	if target != fs.ErrNotExist {
		return false
	}
	switch e.Errno {
	case unix.ENODEV, unix.ESRCH, unix.ENXIO, unix.EADDRNOTAVAIL:
		return true
	}
	return false
}

func (c *Conn) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

type header struct {
	typ, flags uint16
	seq        uint32
}

// receive hands every message to f until f says that it was the last or fails.
func (c *Conn) receive(f func(h header, body []byte) (done bool, err error)) error {
	if c.buf == nil {
		c.buf = make([]byte, receiveSize)
	}
	for {
		n, flags, err := recv(c.fd, c.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return c.lost(fmt.Errorf("receive from rtnetlink: %w", err))
		}
		if flags&unix.MSG_TRUNC != 0 {
			return c.lost(fmt.Errorf("receive from rtnetlink: a message is longer than %d bytes", len(c.buf)))
		}
		for b := c.buf[:n]; len(b) >= headerLen; {
			size := int(native.Uint32(b))
			if size < headerLen || size > len(b) {
				return c.lost(errors.New("receive from rtnetlink: malformed message"))
			}
			h := header{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:])}
			done, err := f(h, b[headerLen:size])
			if done || err != nil {
				return err
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// lost throws away what is still to come when answers were lost, and returns err: the kernel refuses a dump while the one
// before has more to say, and drops all answers as long as the receive buffer is full, which it says only once.
func (c *Conn) lost(err error) error {
	for {
		if _, _, e := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT); e != nil && e != unix.EINTR && e != unix.ENOBUFS {
			return err
		}
	}
}

func recv(fd int, b []byte) (n, flags int, err error) {
	n, _, flags, _, err = unix.Recvmsg(fd, b, nil, 0)
	return n, flags, err
}

func ackError(op func() string, h header, body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("%s: malformed acknowledgement", op())
	}
	errno := -int32(native.Uint32(body))
	if errno == 0 {
		return nil
	}
	e := &Error{Op: op(), Errno: unix.Errno(errno)}
	const flagAckTLVs = 0x200
	if h.flags&flagAckTLVs != 0 && len(body) > 4+headerLen {
		for t, v := range attrs(body[4+headerLen:]) {
			if t == unix.NLMSGERR_ATTR_MSG {
				e.Text = cstring(v)
			}
		}
	}
	return e
}

// First is the first refusal in an error of [Conn.Do], for messages of which each needs the one before.
func First(err error) error {
	for list, ok := err.(interface{ Unwrap() []error }); ok; list, ok = err.(interface{ Unwrap() []error }) {
		err = list.Unwrap()[0]
	}
	return err
}

// Except drops from an error of [Conn.Do] the refusals that are one of the targets; nil if nothing remains.
func Except(err error, targets ...error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, e := range joined.Unwrap() {
			rest = append(rest, Except(e, targets...))
		}
		return errors.Join(rest...)
	}
	for _, t := range targets {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}
