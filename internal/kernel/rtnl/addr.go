//go:build linux

package rtnl

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Addr is an address of a link; comparable.
type Addr struct {
	Link   int
	Prefix netip.Prefix // with the host bits set
	Flags  uint32       // IFA_F_*
	Scope  uint8
	Proto  uint8 // who made it (Linux 5.18)
}

func ifaddr(family, bits uint8, flags uint32, scope uint8, link int) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1], b[2], b[3] = family, bits, uint8(flags), scope
	native.PutUint32(b[4:], uint32(link))
	return b
}

// NewAddr adds an address; one that is there is [io/fs.ErrExist]. IPv4 gets no broadcast address, as with ip(8).
func NewAddr(a Addr) *Msg {
	return addrMsg(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add", a)
}

// DelAddr removes an address; one that is not there is [io/fs.ErrNotExist].
func DelAddr(a Addr) *Msg { return addrMsg(unix.RTM_DELADDR, 0, "delete", a) }

func addrMsg(typ, flags uint16, verb string, a Addr) *Msg {
	ip := a.Prefix.Addr()
	m := newMsg(typ, flags, verb+" address "+a.Prefix.String()+" of link "+index(a.Link),
		ifaddr(family(ip), uint8(a.Prefix.Bits()), a.Flags, a.Scope, a.Link))
	m.ip(unix.IFA_LOCAL, ip)
	m.ip(unix.IFA_ADDRESS, ip)
	if a.Flags > 0xff {
		m.u32(unix.IFA_FLAGS, a.Flags)
	}
	if a.Proto != 0 {
		m.u8(ifaProto, a.Proto)
	}
	return m
}

// Addrs lists the addresses of a link, of both families; those of all links if it is 0.
func (c *Conn) Addrs(link int) ([]Addr, error) {
	m := newMsg(unix.RTM_GETADDR, 0, "list addresses", ifaddr(0, 0, 0, 0, link))
	return dump(c, m, func(b []byte) (Addr, bool, error) {
		a, ok := parseAddr(b)
		return a, ok && (link == 0 || a.Link == link), nil
	})
}

// AddrsIn lists the addresses of all links in the namespace that a link's PeerNS names, without entering it (Linux 4.20).
func (c *Conn) AddrsIn(peerNS int) ([]Addr, error) {
	m := newMsg(unix.RTM_GETADDR, 0, "list addresses of another namespace", ifaddr(0, 0, 0, 0, 0))
	m.u32(ifaTargetNetNSID, uint32(peerNS-1))
	return dump(c, m, func(b []byte) (Addr, bool, error) {
		a, ok := parseAddr(b)
		return a, ok, nil
	})
}

func parseAddr(b []byte) (Addr, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Addr{}, false
	}
	a := Addr{Link: int(native.Uint32(b[4:])), Flags: uint32(b[2]), Scope: b[3]}
	var local, addr netip.Addr
	for t, v := range attrs(b[unix.SizeofIfAddrmsg:]) {
		switch t {
		case unix.IFA_LOCAL:
			local = addrOf(v)
		case unix.IFA_ADDRESS:
			addr = addrOf(v)
		case unix.IFA_FLAGS:
			a.Flags = u32of(v)
		case ifaProto:
			a.Proto = u8of(v)
		}
	}
	if !local.IsValid() {
		local = addr
	}
	a.Prefix = netip.PrefixFrom(local, int(b[1]))
	return a, a.Prefix.IsValid()
}
