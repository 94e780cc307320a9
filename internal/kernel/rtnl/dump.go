//go:build linux

package rtnl

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

const dumpRetries = 20

// dump sends a request and calls parse with each answer until the end, and once more from the start if the kernel says
// that its state changed meanwhile.
func dump[T any](c *Conn, m *Msg, parse func(body []byte) (v T, keep bool, err error)) ([]T, error) {
	return dumpInto(nil, c, m, func(v *T, body []byte) (keep bool, err error) {
		*v, keep, err = parse(body)
		return keep, err
	})
}

// dumpInto is dump into a slice whose values are no longer needed. parse writes all of v.
func dumpInto[T any](old []T, c *Conn, m *Msg, parse func(v *T, body []byte) (keep bool, err error)) ([]T, error) {
	all := old[:0]
	err := c.dump(m, func() { all = old[:0] }, func(body []byte) error {
		if len(all) == cap(all) {
			all = slices.Grow(all, max(16, len(all))) // append grows large slices by a quarter only
		}
		all = all[:len(all)+1]
		keep, err := parse(&all[len(all)-1], body)
		if err != nil || !keep {
			all = all[:len(all)-1]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// dump asks, and gives each object to one; it begins anew, which begin is told, when the kernel says that the answer may have
// gaps. Of the errors of one the first is returned, after the whole answer.
func (c *Conn) dump(m *Msg, begin func(), one func(body []byte) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.strict {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		c.strict = true
	}
	for try := 0; ; try++ {
		c.seq++
		m.seal(unix.NLM_F_REQUEST|unix.NLM_F_DUMP, c.seq)
		if err := c.send(m.b); err != nil {
			return fmt.Errorf("%s: %w", m.op, err)
		}
		begin()
		var failed error
		interrupted := false
		err := c.receive(func(h header, body []byte) (bool, error) {
			if h.seq != c.seq {
				return false, nil
			}
			interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
			switch h.typ {
			case unix.NLMSG_DONE:
				if len(body) >= 4 && int32(native.Uint32(body)) < 0 {
					return true, &Error{Op: m.op, Errno: unix.Errno(-int32(native.Uint32(body)))}
				}
				return true, nil
			case unix.NLMSG_ERROR:
				return true, ackError(m.String, h, body)
			}
			if err := one(body); err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", m.op, err)
			}
			return false, nil
		})
		if (interrupted || errors.Is(err, unix.EINTR)) && try < dumpRetries {
			continue
		}
		if err == nil {
			err = failed
		}
		if err == nil && interrupted {
			err = fmt.Errorf("%s: the kernel's state changed during each of %d dumps", m.op, dumpRetries)
		}
		if err != nil {
			return c.named(err)
		}
		return nil
	}
}
