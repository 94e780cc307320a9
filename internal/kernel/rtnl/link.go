//go:build linux

package rtnl

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
)

// Link is a network interface as the kernel reports it; comparable.
type Link struct {
	Index     int
	Name      string
	Alias     string // ip link set ... alias
	Kind      string // "veth", "bridge", ...; empty for hardware and the loopback
	MAC       inet.MAC
	MTU       int // bytes
	Flags     uint32
	OperState uint8 // RFC 2863; 6 is up
	Master    int   // index of the bridge, 0 is none
	Peer      int   // of a veth: index of the other end, in its namespace; of a tunnel: its lower device
	Group     uint32
	PeerNS    int    // 1 and the id of the namespace that Peer is in; 0 is this one, see [Conn.AddrsIn]
	Promisc   int    // how many asked for promiscuous mode
	Data      string // IFLA_INFO_DATA as it came; the kinds decode it
	Port      Port   // of a bridge port
}

// OperUp is the operational state of a link that carries packets.
const OperUp = 6

// Up reports whether the link is administratively up.
func (l Link) Up() bool { return l.Flags&unix.IFF_UP != 0 }

// Port holds what a bridge knows of a port. The zero value is not the kernel's default: learning and flooding are on.
type Port struct {
	Hairpin, Isolated, Learning, Flood, NeighSuppress bool
}

func ifinfo(family uint8, link int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = family
	native.PutUint32(b[4:], uint32(link))
	native.PutUint32(b[8:], flags)
	native.PutUint32(b[12:], change)
	return b
}

// LinkByName finds an interface. None of that name is [io/fs.ErrNotExist].
func (c *Conn) LinkByName(name string) (Link, error) {
	return c.getLink(GetLink(name, nil), name)
}

// LinkByIndex finds an interface. None of that index is [io/fs.ErrNotExist].
func (c *Conn) LinkByIndex(i int) (Link, error) {
	m := newMsg(unix.RTM_GETLINK, 0, "find the link of index "+strconv.Itoa(i), ifinfo(0, i, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	return c.getLink(m, "")
}

// GetLink asks for an interface by name; got, which may be nil, is called with it. None of that name is [io/fs.ErrNotExist].
func GetLink(name string, got func(Link)) *Msg {
	m := newMsg(unix.RTM_GETLINK, 0, "find link "+name, ifinfo(0, 0, 0, 0))
	m.str(unix.IFLA_IFNAME, name)
	m.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	if got != nil {
		m.reply = func(body []byte) { got(parseLink(body)) }
	}
	return m
}

func (c *Conn) getLink(m *Msg, name string) (l Link, err error) {
	if len(name) >= unix.IFNAMSIZ {
		// the kernel's answer would be ERANGE; no interface can have such a name
		return l, &Error{Op: m.op, Errno: unix.ENODEV, Text: "a name has at most 15 bytes"}
	}
	m.reply = func(body []byte) { l = parseLink(body) }
	err = c.Do(m)
	return l, err
}

// Links lists the interfaces, only those of a kind if it is not empty.
func (c *Conn) Links(kind string) ([]Link, error) {
	m := newMsg(unix.RTM_GETLINK, 0, "list links", ifinfo(0, 0, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	if kind != "" {
		m.nest(unix.IFLA_LINKINFO, func() { m.str(unix.IFLA_INFO_KIND, kind) })
	}
	return dump(c, m, func(b []byte) (Link, bool, error) {
		l := parseLink(b)
		return l, kind == "" || l.Kind == kind, nil
	})
}

func parseLink(b []byte) Link {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}
	}
	l := Link{Index: int(int32(native.Uint32(b[4:]))), Flags: native.Uint32(b[8:])}
	for t, v := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch t {
		case unix.IFLA_IFNAME:
			l.Name = cstring(v)
		case unix.IFLA_IFALIAS:
			l.Alias = cstring(v)
		case unix.IFLA_ADDRESS:
			copy(l.MAC[:], v)
		case unix.IFLA_MTU:
			l.MTU = int(u32of(v))
		case unix.IFLA_OPERSTATE:
			l.OperState = u8of(v)
		case unix.IFLA_MASTER:
			l.Master = int(u32of(v))
		case unix.IFLA_LINK:
			l.Peer = int(u32of(v))
		case unix.IFLA_LINK_NETNSID:
			l.PeerNS = 1 + int(int32(u32of(v)))
		case unix.IFLA_GROUP:
			l.Group = u32of(v)
		case unix.IFLA_PROMISCUITY:
			l.Promisc = int(u32of(v))
		case unix.IFLA_LINKINFO:
			parseLinkInfo(&l, v)
		}
	}
	return l
}

func parseLinkInfo(l *Link, b []byte) {
	slave := ""
	for t, v := range attrs(b) {
		switch t {
		case unix.IFLA_INFO_KIND:
			l.Kind = cstring(v)
		case unix.IFLA_INFO_DATA:
			l.Data = string(v)
		case unix.IFLA_INFO_SLAVE_KIND:
			slave = cstring(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			if slave == "bridge" {
				l.Port = parsePort(v)
			}
		}
	}
}

func parsePort(b []byte) Port {
	var p Port
	for t, v := range attrs(b) {
		on := u8of(v) != 0
		switch t {
		case Hairpin:
			p.Hairpin = on
		case Isolated:
			p.Isolated = on
		case Learning:
			p.Learning = on
		case Flood:
			p.Flood = on
		case NeighSuppress:
			p.NeighSuppress = on
		}
	}
	return p
}

// Set is a change of an existing link. Zero fields stay as they are.
type Set struct {
	Index   int    // the link, by index or
	Name    string // by name
	Rename  string // of the link of Index
	MAC     inet.MAC
	MTU     int
	Alias   string
	Up      bool
	Down    bool
	Promisc bool       // switch promiscuous mode on
	Master  int        // index of a bridge
	Free    bool       // take it off its bridge
	Port    []PortFlag // of a bridge port
	Group   uint32
}

// PortFlag is one property of a bridge port, see bridge(8).
type PortFlag struct {
	Attr uint16
	On   bool
}

// SetLink changes an existing link.
func SetLink(s Set) *Msg {
	var flags, change uint32
	if s.Up || s.Down {
		change = unix.IFF_UP
	}
	if s.Up {
		flags = unix.IFF_UP
	}
	if s.Promisc {
		flags, change = flags|unix.IFF_PROMISC, change|unix.IFF_PROMISC
	}
	who := s.Name
	if who == "" {
		who = index(s.Index)
	}
	m := newMsg(unix.RTM_NEWLINK, 0, "change link "+who, ifinfo(0, s.Index, flags, change))
	if name := s.Name + s.Rename; name != "" {
		m.str(unix.IFLA_IFNAME, name)
	}
	if s.MAC != (inet.MAC{}) {
		m.bytes(unix.IFLA_ADDRESS, s.MAC[:])
	}
	if s.MTU != 0 {
		m.u32(unix.IFLA_MTU, uint32(s.MTU))
	}
	if s.Alias != "" {
		m.bytes(unix.IFLA_IFALIAS, []byte(s.Alias))
	}
	if s.Group != 0 {
		m.u32(unix.IFLA_GROUP, s.Group)
	}
	if s.Master != 0 || s.Free {
		m.u32(unix.IFLA_MASTER, uint32(s.Master))
	}
	if len(s.Port) > 0 {
		m.nest(unix.IFLA_LINKINFO, func() {
			m.str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
			m.nest(unix.IFLA_INFO_SLAVE_DATA, func() {
				for _, f := range s.Port {
					m.flag(f.Attr, f.On)
				}
			})
		})
	}
	return m
}

// DelLink removes an interface by name.
func DelLink(name string) *Msg {
	m := newMsg(unix.RTM_DELLINK, 0, "delete link "+name, ifinfo(0, 0, 0, 0))
	m.str(unix.IFLA_IFNAME, name)
	return m
}

// DelLinkIndex removes an interface by index.
func DelLinkIndex(i int) *Msg {
	return newMsg(unix.RTM_DELLINK, 0, "delete link "+index(i), ifinfo(0, i, 0, 0))
}

// DelLinkGroup removes all interfaces of a group at once, which costs little more than one. An empty group is
// [io/fs.ErrNotExist].
func DelLinkGroup(group uint32) *Msg {
	m := newMsg(unix.RTM_DELLINK, 0, "delete links of group "+strconv.Itoa(int(group)), ifinfo(0, 0, 0, 0))
	m.u32(unix.IFLA_GROUP, group)
	return m
}
