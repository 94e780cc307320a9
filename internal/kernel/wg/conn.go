//go:build linux

package wg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	headerLen   = unix.NLMSG_HDRLEN + unix.GENL_HDRLEN
	receiveSize = 64 << 10 // the kernel's dumps use at most 32 KiB a message

	flagDump = unix.NLM_F_DUMP

	// attentive is how often a call that the kernel does not answer looks at its context. It answers at once.
	attentive = 50 * time.Millisecond
)

// conn is a socket of generic netlink.
type conn struct {
	fd     int
	seq    uint32
	buf    []byte
	family uint16 // the number of WireGuard's messages
}

// dial opens a socket in the namespace and asks for the family.
func dial(ctx context.Context, ns *netns.NS) (*conn, error) {
	c, err := open(ns)
	if err != nil {
		return nil, err
	}
	if c.family, err = c.find(ctx, familyName); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func open(ns *netns.NS) (*conn, error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	c := &conn{fd: fd, buf: make([]byte, receiveSize)}
	tick := unix.NsecToTimeval(attentive.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick); err != nil {
		c.close()
		return nil, fmt.Errorf("setsockopt(SO_RCVTIMEO): %w", err)
	}
	// Both only make errors shorter and clearer.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return c, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// find asks for the number of a family, which has the kernel load its module.
func (c *conn) find(ctx context.Context, name string) (family uint16, err error) {
	op := "find the netlink family " + name
	err = c.ask(ctx, op, unix.GENL_ID_CTRL, 0, unix.CTRL_CMD_GETFAMILY, appendString(nil, unix.CTRL_ATTR_FAMILY_NAME, name),
		func(b []byte) error {
			return each(b, func(typ uint16, v []byte) (err error) {
				if typ == unix.CTRL_ATTR_FAMILY_ID {
					family, err = u16(v)
				}
				return err
			})
		})
	if err == nil && family == 0 {
		err = fmt.Errorf("%s: %w", op, errMalformed)
	}
	return family, err
}

// errInterrupted says that what was dumped changed meanwhile.
var errInterrupted = errors.New("the device changes while it is read")

// ask sends a command and calls each with the attributes of every answer, until the kernel says that there are no more.
func (c *conn) ask(ctx context.Context, op string, family, flags uint16, command uint8, attrs []byte, each func([]byte) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	c.seq++
	b := make([]byte, 0, headerLen+len(attrs))
	b = native.AppendUint32(b, uint32(headerLen+len(attrs)))
	b = native.AppendUint16(b, family)
	b = native.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = native.AppendUint32(b, c.seq)
	b = append(b, 0, 0, 0, 0, command, 1, 0, 0) // port ID; command, version
	b = append(b, attrs...)
	if err := c.send(b); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	interrupted := false
	err := c.receive(ctx, func(typ, flags uint16, body []byte) (done bool, err error) {
		interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case typ == unix.NLMSG_ERROR, typ == unix.NLMSG_DONE:
			return true, refusal(op, flags, body)
		case len(body) < unix.GENL_HDRLEN:
			return true, errMalformed
		case each != nil:
			err = each(body[unix.GENL_HDRLEN:])
		}
		return false, err
	})
	var refused *rtnl.Error
	switch {
	case interrupted && (err == nil || errors.Is(err, unix.EINTR)):
		return errInterrupted
	case err == nil, errors.As(err, &refused):
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

func (c *conn) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// receive hands the messages of this request to f until f says that it was the last, fails, or ctx ends.
func (c *conn) receive(ctx context.Context, f func(typ, flags uint16, body []byte) (done bool, err error)) error {
	for {
		n, _, flags, _, err := unix.Recvmsg(c.fd, c.buf, nil, 0)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN:
			if ctx.Err() != nil {
				return fmt.Errorf("the kernel has not answered: %w", ctx.Err())
			}
			continue
		case err != nil:
			return err
		case flags&unix.MSG_TRUNC != 0:
			return fmt.Errorf("a message is longer than %d bytes", len(c.buf))
		}
		for b := c.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(native.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errMalformed
			}
			if native.Uint32(b[8:]) == c.seq {
				done, err := f(native.Uint16(b[4:]), native.Uint16(b[6:]), b[unix.NLMSG_HDRLEN:size])
				if done || err != nil {
					return err
				}
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// refusal reads struct nlmsgerr, and the number at the end of a dump.
func refusal(op string, flags uint16, body []byte) error {
	if len(body) < 4 {
		return errMalformed
	}
	errno := -int32(native.Uint32(body))
	if errno == 0 {
		return nil
	}
	e := &rtnl.Error{Op: op, Errno: unix.Errno(errno)}
	const tlvs = 0x200 // NLM_F_ACK_TLVS
	if at := 4 + unix.NLMSG_HDRLEN; flags&tlvs != 0 && len(body) > at {
		_ = each(body[at:], func(typ uint16, v []byte) error {
			if typ == unix.NLMSGERR_ATTR_MSG && len(v) > 0 {
				e.Text = string(v[:len(v)-1])
			}
			return nil
		})
	}
	return e
}
