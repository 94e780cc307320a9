//go:build linux

package rtnl

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// monitorGroups are those of rtnetlink(7) whose announcements become events. FDB entries come with the neighbours.
var monitorGroups = []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF}

// MonitorBuffer is what announcements may wait in, in bytes of kernel memory that is used only while they do: enough for
// those of 10 000 peers that are set at once.
const MonitorBuffer = 32 << 20

// Monitor receives the kernel's announcements about a namespace: links, addresses, routes, rules, neighbours, FDB
// entries, parameters of IP.
//
// What nobody asks for is left out in the kernel, where it costs next to nothing: changes that this process itself made
// through [Conn] (but not to FDB entries, of which the kernel does not say whose they are), routes of table local, and
// entries that address resolution and learning make on links that were not named to [Monitor.Follow].
type Monitor struct {
	f     *os.File
	own   uint32
	buf   []byte
	event Event
	links []int
}

// OpenMonitor subscribes in ns. It may miss nothing from then on, other than what it reports as [Lost]. buffer is in
// bytes; 0 is [MonitorBuffer].
func OpenMonitor(ns *netns.NS, buffer int) (*Monitor, error) {
	c, err := Open(ns)
	if err != nil {
		return nil, err
	}
	own, err := c.port()
	if err != nil {
		return nil, err
	}
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	m := &Monitor{own: own, buf: make([]byte, receiveSize)}
	if err := m.subscribe(fd, buffer); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	m.f = os.NewFile(uintptr(fd), "rtnetlink")
	return m, nil
}

// port is the number by which the kernel names this socket in what it announces; it has one from its first request on.
func (c *Conn) port() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := unix.Getsockname(c.fd)
	if err != nil {
		return 0, err
	}
	if nl, ok := at.(*unix.SockaddrNetlink); ok && nl.Pid != 0 {
		return nl.Pid, nil
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	if at, err = unix.Getsockname(c.fd); err != nil {
		return 0, err
	}
	return at.(*unix.SockaddrNetlink).Pid, nil
}

func (m *Monitor) subscribe(fd, buffer int) error {
	if buffer == 0 {
		buffer = MonitorBuffer
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil { // needs CAP_NET_ADMIN outside
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return err
		}
	}
	if err := m.filter(fd); err != nil {
		return err
	}
	var groups uint32
	for _, g := range monitorGroups {
		groups |= 1 << (g - 1)
	}
	return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
}

// Follow names the links whose neighbour and FDB entries count whatever their state.
func (m *Monitor) Follow(links ...int) error {
	links = slices.Sorted(slices.Values(links))
	if slices.Equal(links, m.links) {
		return nil
	}
	m.links = links
	raw, err := m.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = m.filter(int(fd)) })
	return errors.Join(err, failed)
}

// filter has the kernel drop what does not count. A program replaces the one before in one step.
func (m *Monitor) filter(fd int) error {
	raw, err := bpf.Assemble(m.program())
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	return nil
}

// big16 and big32 are a value as the filter sees it, which reads what the kernel stored in its own order as big-endian.
func big16(v uint16) uint32 {
	var b [2]byte
	native.PutUint16(b[:], v)
	return uint32(b[0])<<8 | uint32(b[1])
}

func big32(v uint32) uint32 {
	var b [4]byte
	native.PutUint32(b[:], v)
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// program reads the header (nlmsghdr), and behind it the table of a route (rtmsg) or link and state of an entry (ndmsg).
func (m *Monitor) program() []bpf.Instruction {
	const (
		typ, port       = 4, 12
		table           = headerLen + 4
		family          = headerLen
		link, state     = headerLen + 4, headerLen + 8
		accept, dropped = 1 << 18, 0
	)
	keep, drop := bpf.RetConstant{Val: accept}, bpf.RetConstant{Val: dropped}
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: port, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: big32(m.own), SkipTrue: 1},
		drop,
		bpf.LoadAbsolute{Off: typ, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: big16(unix.RTM_NEWROUTE), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: big16(unix.RTM_DELROUTE), SkipTrue: 4},
		bpf.LoadAbsolute{Off: table, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.RT_TABLE_LOCAL, SkipTrue: 1},
		drop,
		keep,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: big16(unix.RTM_NEWNEIGH), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: big16(unix.RTM_DELNEIGH), SkipTrue: 1},
		keep,
		bpf.LoadAbsolute{Off: link, Size: 4},
	}
	for _, l := range m.links {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: big32(uint32(l)), SkipTrue: 1}, keep)
	}
	return append(p,
		bpf.LoadAbsolute{Off: family, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_BRIDGE, SkipTrue: 3},
		bpf.LoadAbsolute{Off: state, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: big16(unix.NUD_PERMANENT), SkipTrue: 1},
		keep,
		drop,
	)
}

// Receive waits for announcements and calls f for each that has arrived; the event is f's until it returns. After
// [Monitor.Close] it fails with [os.ErrClosed].
func (m *Monitor) Receive(f func(*Event)) error {
	raw, err := m.f.SyscallConn()
	if err != nil {
		return err
	}
	got := 0
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, err := unix.Recvfrom(int(fd), m.buf, 0)
			switch {
			case err == nil:
				m.parse(m.buf[:n], f)
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return got > 0
			case errors.Is(err, unix.ENOBUFS):
				m.event = Event{Subject: Lost}
				f(&m.event)
			default:
				failed = fmt.Errorf("receive from rtnetlink: %w", err)
				return true
			}
			got++
		}
	})
	if err != nil { // of the poller, which has no other reason
		return fmt.Errorf("receive from rtnetlink: %w", os.ErrClosed)
	}
	return failed
}

func (m *Monitor) parse(b []byte, f func(*Event)) {
	for len(b) >= headerLen {
		size := int(native.Uint32(b))
		if size < headerLen || size > len(b) {
			return
		}
		if parseEvent(&m.event, native.Uint16(b[4:]), native.Uint32(b[12:]), b[headerLen:size]) {
			f(&m.event)
		}
		b = b[min(align(size), len(b)):]
	}
}

// Close ends the subscription, and a Receive that waits.
func (m *Monitor) Close() error { return m.f.Close() }
