//go:build linux

package nft

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

const (
	headerLen  = unix.NLMSG_HDRLEN + 4 // with struct nfgenmsg: family, version, resource ID
	bufferLen  = 32 << 10              // the kernel fills no more of a dump at a time
	bigMessage = 128 << 10             // more than this needs a larger send buffer
	patience   = 100                   // how often a dump may be interrupted by others' commits
)

// Conn asks and changes the nftables ruleset of one namespace. Its methods may be called from several goroutines at once.
type Conn struct {
	ns *netns.NS

	mu  sync.Mutex
	fd  int // -1 while there is no socket
	seq uint32
	buf []byte
}

type key struct{}

// Open returns the connection of the namespace, which ends with it.
func Open(ns *netns.NS) (*Conn, error) {
	c, err := ns.Keep(key{}, func() (io.Closer, error) {
		c := &Conn{ns: ns, fd: -1}
		if err := c.dial(); err != nil {
			return nil, err
		}
		return c, nil
	})
	if err != nil {
		return nil, err
	}
	return c.(*Conn), nil
}

func (c *Conn) dial() (err error) {
	if c.fd >= 0 {
		return nil
	}
	c.fd, err = c.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if c.buf == nil {
		c.buf = make([]byte, bufferLen)
	}
	return nil
}

// Close closes the socket. A connection of [Open] is closed with its namespace.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// hangUp drops a socket whose replies can no longer be told apart; the next call opens another.
func (c *Conn) hangUp() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// send writes messages whose sequence numbers begin at c.seq.
func (c *Conn) send(b []byte) error {
	if err := c.dial(); err != nil {
		return err
	}
	if len(b) > bigMessage {
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b)) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*len(b)) // in a user namespace: up to wmem_max
		}
	}
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return os.NewSyscallError("sendto", err)
		}
	}
}

// receive calls f for every message of the next datagram: type, flags, sequence number, payload. The payload is valid
// during the call.
func (c *Conn) receive(flags int, f func(typ, flags uint16, seq uint32, payload []byte)) error {
	n, _, err := unix.Recvfrom(c.fd, c.buf, flags|unix.MSG_TRUNC)
	for err == unix.EINTR {
		n, _, err = unix.Recvfrom(c.fd, c.buf, flags|unix.MSG_TRUNC)
	}
	if err != nil {
		return err
	}
	if n > len(c.buf) {
		return fmt.Errorf("netlink datagram of %d bytes: %w", n, unix.EMSGSIZE)
	}
	for b := c.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return fmt.Errorf("torn netlink message: %w", unix.EBADMSG)
		}
		f(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:]),
			b[unix.NLMSG_HDRLEN:size])
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return nil
}

// appendMessage encodes a message to nfnetlink.
func appendMessage(b []byte, typ, flags uint16, seq uint32, family uint8, resource uint16, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(headerLen+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, body...)
}

// Request is a question; see the functions that make one.
type Request struct {
	sub    uint16 // NFNL_SUBSYS_..., 0 is that of nftables
	typ    uint16
	family uint8
	attrs  attrs
	rows   int // how many objects the answer has unless it is an error; 0 asks for a dump, -1 for no more than whether it is done
}

// Answer is what the kernel said to one [Request]: the objects that it found, or why not. What does not exist is
// [io/fs.ErrNotExist].
type Answer struct {
	rows [][]byte // attributes
	Err  error
}

// Query asks all at once, in one write. At most one request may be a dump, and it must be the last: the kernel refuses a
// second one while the first has more to say. The answers have the order of the requests. An error of the socket itself
// is returned; it is not that of an answer.
func (c *Conn) Query(reqs ...Request) ([]Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range patience {
		answers, whole, err := c.query(reqs)
		if err != nil {
			c.hangUp()
			return nil, fmt.Errorf("ask nftables: %w", err)
		}
		if whole {
			return answers, nil
		}
	}
	return nil, fmt.Errorf("ask nftables: the ruleset changed %d times while it was read: %w", patience, unix.EINTR)
}

func (c *Conn) query(reqs []Request) (answers []Answer, whole bool, err error) {
	first := c.seq + 1
	var b []byte
	for _, r := range reqs {
		c.seq++
		flags := uint16(unix.NLM_F_REQUEST)
		switch {
		case r.rows == 0:
			flags |= unix.NLM_F_DUMP
		case r.rows < 0:
			flags |= unix.NLM_F_ACK
		}
		b = appendMessage(b, cmp.Or(r.sub, unix.NFNL_SUBSYS_NFTABLES)<<8|r.typ, flags, c.seq, r.family, 0, r.attrs)
	}
	if err := c.send(b); err != nil {
		return nil, false, err
	}
	answers, whole = make([]Answer, len(reqs)), true
	denied := false // a write of one who may not is dropped as a whole, and only its first message answered
	for open := len(reqs); open > 0 && !denied; {
		err := c.receive(0, func(typ, flags uint16, seq uint32, payload []byte) {
			i := int(seq - first)
			if i < 0 || i >= len(answers) { // of an earlier call
				return
			}
			if flags&unix.NLM_F_DUMP_INTR != 0 {
				whole = false
			}
			switch {
			case typ == unix.NLMSG_ERROR, typ == unix.NLMSG_DONE:
				open--
				answers[i].Err = errnoOf(payload)
				denied = i == 0 && answers[i].Err == unix.EPERM
			case len(payload) >= 4:
				answers[i].rows = append(answers[i].rows, append([]byte(nil), payload[4:]...))
				if len(answers[i].rows) == reqs[i].rows {
					open--
				}
			}
		})
		if err != nil {
			return nil, false, err
		}
	}
	if denied {
		return nil, false, unix.EPERM
	}
	return answers, whole, nil
}

// errnoOf reads struct nlmsgerr, and the number at the end of a dump.
func errnoOf(payload []byte) error {
	if len(payload) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(payload)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

// one asks a single question.
func (c *Conn) one(r Request) (Answer, error) {
	answers, err := c.Query(r)
	if err != nil {
		return Answer{}, err
	}
	return answers[0], answers[0].Err
}

// Missing reports whether the error says that the kernel has no nftables: no netlink family, or none behind it.
func Missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Supported reports whether the kernel has nftables at all; it loads the module if that is needed. Every other trouble is
// an error.
func (c *Conn) Supported() (bool, error) {
	_, err := c.Generation()
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}
