//go:build linux

package rtnl

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
)

const ndaProtocol = 12 // NDA_PROTOCOL

// Neigh is an entry of the neighbour table (ip-neighbour(8)); comparable.
type Neigh struct {
	Link  int
	IP    netip.Addr
	MAC   inet.MAC
	Proto uint8  // who made it; 0 is nobody that said so
	State uint16 // NUD_*; 0 asks for a permanent entry
}

// ReplaceNeigh adds an entry or replaces the one for the same address.
func ReplaceNeigh(n Neigh) *Msg { return new(Msg).ReplaceNeigh(&n) }

// ReplaceNeigh makes m what the function of this name returns.
func (m *Msg) ReplaceNeigh(n *Neigh) *Msg {
	return m.neigh(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "set", n)
}

// DelNeigh removes an entry; one that is not there is [io/fs.ErrNotExist].
func DelNeigh(n Neigh) *Msg { return new(Msg).DelNeigh(&n) }

// DelNeigh makes m what the function of this name returns.
func (m *Msg) DelNeigh(n *Neigh) *Msg { return m.neigh(unix.RTM_DELNEIGH, 0, "delete", n) }

func ndmsg(family uint8, link int, state uint16, flags uint8) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = family
	native.PutUint32(b[4:], uint32(link))
	native.PutUint16(b[8:], state)
	b[10] = flags
	return b
}

func (m *Msg) neigh(typ, flags uint16, verb string, n *Neigh) *Msg {
	state := n.State
	if state == 0 {
		state = unix.NUD_PERMANENT
	}
	m.start(typ, flags, verb, ndmsg(family(n.IP), n.Link, state, 0))
	m.about = aboutNeigh
	m.ip(unix.NDA_DST, n.IP)
	if typ == unix.RTM_NEWNEIGH {
		m.bytes(unix.NDA_LLADDR, n.MAC[:])
		if n.Proto != 0 {
			m.u8(ndaProtocol, n.Proto)
		}
	}
	return m
}

func aboutNeigh(body []byte) string { return parseNeigh(body).String() }

// Permanent reports whether the entry was made by hand or program, not by address resolution.
func (n Neigh) Permanent() bool { return n.State&unix.NUD_PERMANENT != 0 }

// String is the entry in the words of ip-neighbour(8).
func (n Neigh) String() string {
	mac := ""
	if n.MAC != (inet.MAC{}) {
		mac = " lladdr " + n.MAC.String()
	}
	return fmt.Sprintf("neighbour %s%s dev #%d", n.IP, mac, n.Link)
}

// Neighs lists the entries of a link, of both families.
func (c *Conn) Neighs(link int) ([]Neigh, error) { return c.NeighsInto(nil, link) }

// NeighsInto is Neighs into a slice whose values are no longer needed.
func (c *Conn) NeighsInto(old []Neigh, link int) ([]Neigh, error) {
	m := newMsg(unix.RTM_GETNEIGH, 0, "list neighbours of link "+index(link), ndmsg(0, 0, 0, 0))
	m.u32(unix.NDA_IFINDEX, uint32(link))
	return dumpInto(old, c, m, func(n *Neigh, b []byte) (bool, error) {
		*n = parseNeigh(b)
		return n.Link == link && n.IP.IsValid(), nil
	})
}

func parseNeigh(b []byte) Neigh {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return Neigh{}
	}
	n := Neigh{Link: int(native.Uint32(b[4:])), State: native.Uint16(b[8:])}
	for t, v := range attrs(b[unix.SizeofNdMsg:]) {
		switch t {
		case unix.NDA_DST:
			n.IP = addrOf(v)
		case unix.NDA_LLADDR:
			copy(n.MAC[:], v)
		case ndaProtocol:
			n.Proto = u8of(v)
		}
	}
	return n
}

// FDB is an entry of a vxlan device's forwarding database (bridge-fdb(8)); comparable.
type FDB struct {
	Link    int
	MAC     inet.MAC // zero: frames without an entry of their own; there may be one for each Dst
	Dst     netip.Addr
	Port    uint16 // 0 is the device's
	VNI     uint32 // 0 is the device's
	Learned bool   // reported only: from received frames, or by another that ages
	Extern  bool   // a control plane made it (extern_learn)
}

// SetFDB adds an entry or replaces the one for the same MAC; of those for the zero MAC it adds one more.
func SetFDB(f FDB) *Msg { return new(Msg).SetFDB(&f) }

// SetFDB makes m what the function of this name returns.
func (m *Msg) SetFDB(f *FDB) *Msg {
	if f.MAC == (inet.MAC{}) {
		return m.fdb(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "set", f)
	}
	return m.fdb(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "set", f)
}

// DelFDB removes an entry; one that is not there is [io/fs.ErrNotExist].
func DelFDB(f FDB) *Msg { return new(Msg).DelFDB(&f) }

// DelFDB makes m what the function of this name returns.
func (m *Msg) DelFDB(f *FDB) *Msg { return m.fdb(unix.RTM_DELNEIGH, 0, "delete", f) }

func (m *Msg) fdb(typ, flags uint16, verb string, f *FDB) *Msg {
	ntf := uint8(unix.NTF_SELF)
	if f.Extern {
		ntf |= unix.NTF_EXT_LEARNED
	}
	m.start(typ, flags, verb, ndmsg(unix.AF_BRIDGE, f.Link, unix.NUD_PERMANENT|unix.NUD_NOARP, ntf))
	m.about = aboutFDB
	m.bytes(unix.NDA_LLADDR, f.MAC[:])
	if f.Dst.IsValid() {
		m.ip(unix.NDA_DST, f.Dst)
	}
	if f.Port != 0 {
		m.be16(unix.NDA_PORT, f.Port)
	}
	if f.VNI != 0 {
		m.u32(unix.NDA_VNI, f.VNI)
	}
	return m
}

func aboutFDB(body []byte) string {
	f, _ := parseFDB(body)
	return f.String()
}

// String is the entry in the words of bridge-fdb(8).
func (f FDB) String() string {
	mac := f.MAC.String()
	if mac == "" {
		mac = "00:00:00:00:00:00"
	}
	return fmt.Sprintf("FDB entry %s dst %s dev #%d", mac, f.Dst, f.Link)
}

// FDBs lists the entries of a vxlan device itself, not those that a bridge has for it as a port.
func (c *Conn) FDBs(link int) ([]FDB, error) { return c.FDBsInto(nil, link) }

// FDBsInto is FDBs into a slice whose values are no longer needed.
func (c *Conn) FDBsInto(old []FDB, link int) ([]FDB, error) {
	m := newMsg(unix.RTM_GETNEIGH, 0, "list FDB entries of link "+index(link), ndmsg(unix.AF_BRIDGE, link, 0, 0))
	return dumpInto(old, c, m, func(f *FDB, b []byte) (ok bool, err error) {
		*f, ok = parseFDB(b)
		return ok && f.Link == link, nil
	})
}

func parseFDB(b []byte) (FDB, bool) {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_BRIDGE || b[10]&unix.NTF_SELF == 0 {
		return FDB{}, false
	}
	f := FDB{Link: int(native.Uint32(b[4:])), Extern: b[10]&unix.NTF_EXT_LEARNED != 0}
	f.Learned = native.Uint16(b[8:])&(unix.NUD_PERMANENT|unix.NUD_NOARP) == 0
	for t, v := range attrs(b[unix.SizeofNdMsg:]) {
		switch t {
		case unix.NDA_DST:
			f.Dst = addrOf(v)
		case unix.NDA_LLADDR:
			copy(f.MAC[:], v)
		case unix.NDA_PORT:
			f.Port = be16of(v)
		case unix.NDA_VNI:
			f.VNI = u32of(v)
		}
	}
	return f, f.Dst.IsValid()
}
