//go:build linux

package ping

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// open makes a raw socket, or where that is not permitted the datagram one of icmp(7), and connects it.
func open(ns *netns.NS, to netip.Addr, o Options) (*conn, error) {
	c := &conn{v4: to.Is4(), id: newID(), raw: true}
	domain, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	if c.v4 {
		domain, proto = unix.AF_INET, unix.IPPROTO_ICMP
	}
	fd, err := ns.Socket(domain, unix.SOCK_RAW|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, unix.EPERM) {
		c.raw = false
		fd, err = ns.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, proto)
	}
	if err != nil {
		return nil, err
	}
	if err := c.prepare(fd, to, o); err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.f = os.NewFile(uintptr(fd), "icmp socket")
	return c, nil
}

func (c *conn) prepare(fd int, to netip.Addr, o Options) error {
	for _, s := range c.options(o) {
		if err := unix.SetsockoptInt(fd, s.level, s.name, s.value); err != nil {
			return fmt.Errorf("setsockopt(%d, %d): %w", s.level, s.name, err)
		}
	}
	if c.raw && !c.v4 {
		only := unix.ICMPv6Filter{}
		for i := range only.Data {
			only.Data[i] = ^uint32(0)
		}
		only.Data[129/32] &^= 1 << (129 % 32)
		if err := unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &only); err != nil {
			return fmt.Errorf("setsockopt(ICMPV6_FILTER): %w", err)
		}
	}
	if o.From.IsValid() {
		from, err := sockaddr(fd, o.From.Unmap())
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, from); err != nil {
			return fmt.Errorf("bind to %s: %w", o.From, err)
		}
	}
	dst, err := sockaddr(fd, to)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, dst); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

type option struct{ level, name, value int }

// options make the socket report ICMP errors, and say who may fragment.
func (c *conn) options(o Options) []option {
	buf := option{unix.SOL_SOCKET, unix.SO_SNDBUF, 1 << 18}
	if c.v4 {
		discover := unix.IP_PMTUDISC_DONT
		if o.NoFrag {
			discover = unix.IP_PMTUDISC_DO
		}
		return []option{buf, {unix.SOL_IP, unix.IP_RECVERR, 1}, {unix.SOL_IP, unix.IP_MTU_DISCOVER, discover}}
	}
	s := []option{buf, {unix.SOL_IPV6, unix.IPV6_RECVERR, 1}}
	if o.NoFrag {
		s = append(s, option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO},
			option{unix.SOL_IPV6, unix.IPV6_DONTFRAG, 1})
	}
	return s
}

// sockaddr converts an address; its zone is a link of the socket's namespace, by name or index.
func sockaddr(fd int, a netip.Addr) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Addr: a.As16()}
	if a.Zone() == "" {
		return sa, nil
	}
	if n, err := strconv.ParseUint(a.Zone(), 10, 32); err == nil {
		sa.ZoneId = uint32(n)
		return sa, nil
	}
	ifr, err := unix.NewIfreq(a.Zone())
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err != nil {
		return nil, fmt.Errorf("zone %q of %s: %w", a.Zone(), a, err)
	}
	sa.ZoneId = ifr.Uint32()
	return sa, nil
}
