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
			return nil, fmt.Errorf("%s: %w", m.op, err)
		}
		all := old[:0]
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
			if len(all) == cap(all) {
				all = slices.Grow(all, max(16, len(all))) // append grows large slices by a quarter only
			}
			all = all[:len(all)+1]
			keep, err := parse(&all[len(all)-1], body)
			if err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", m.op, err)
			}
			if err != nil || !keep {
				all = all[:len(all)-1]
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
			return nil, c.named(err)
		}
		return all, nil
	}
}
