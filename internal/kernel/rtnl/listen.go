//go:build linux

package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// GroupLink is the multicast group of links, as a bit (RTNLGRP_LINK).
const GroupLink = 1 << (unix.RTNLGRP_LINK - 1)

// Listener receives the kernel's announcements.
type Listener struct{ c *Conn }

// Listen subscribes to groups, a set of bits, in ns.
func Listen(ns *netns.NS, groups uint32) (*Listener, error) {
	c, err := dial(ns, groups)
	if err != nil {
		return nil, err
	}
	return &Listener{c}, nil
}

// Fd is the descriptor of the socket, for poll(2).
func (l *Listener) Fd() int { return l.c.fd }

// Close ends the subscription.
func (l *Listener) Close() error { return l.c.Close() }

// Deleted reads what has arrived, without waiting, and reports whether the deletion of a link was among it.
func (l *Listener) Deleted(index int) (bool, error) {
	if l.c.buf == nil {
		l.c.buf = make([]byte, receiveSize)
	}
	gone := false
	for {
		n, _, err := unix.Recvfrom(l.c.fd, l.c.buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return gone, nil
		case err != nil:
			return gone, err
		}
		for b := l.c.buf[:n]; len(b) >= headerLen+unix.SizeofIfInfomsg; {
			size := int(native.Uint32(b))
			if size < headerLen || size > len(b) {
				break
			}
			at := b[headerLen:]
			// A port that leaves its bridge is announced as a deletion too, in the family of bridges.
			if native.Uint16(b[4:]) == unix.RTM_DELLINK && at[0] != unix.AF_BRIDGE && int(native.Uint32(at[4:])) == index {
				gone = true
			}
			b = b[min(align(size), len(b)):]
		}
	}
}
