//go:build linux

package rtnl

import "golang.org/x/sys/unix"

// Macvlan is a station of its own on the lower device, with a MAC of its own.
type Macvlan struct {
	Mode       uint32 // MACVLAN_MODE_*
	BCQueueLen uint32 // packets to groups that may wait for the stations; 0 is the kernel's 1000
}

// Kind is "macvlan".
func (Macvlan) Kind() string { return "macvlan" }

func (v Macvlan) put(m *Msg) {
	m.u32(unix.IFLA_MACVLAN_MODE, v.Mode)
	if v.BCQueueLen != 0 {
		m.u32(unix.IFLA_MACVLAN_BC_QUEUE_LEN, v.BCQueueLen)
	}
}

// IPVLAN shares the MAC of the lower device and is told by its IP addresses.
type IPVLAN struct {
	Mode uint16 // IPVLAN_MODE_*
}

// Kind is "ipvlan".
func (IPVLAN) Kind() string { return "ipvlan" }

func (v IPVLAN) put(m *Msg) { m.u16(unix.IFLA_IPVLAN_MODE, v.Mode) }

// Dot1Q is a VLAN of the lower device (IEEE 802.1Q).
type Dot1Q struct{ ID uint16 }

// Kind is "vlan".
func (Dot1Q) Kind() string { return "vlan" }

func (v Dot1Q) put(m *Msg) { m.u16(unix.IFLA_VLAN_ID, v.ID) }

// VRF has a routing table for its ports.
type VRF struct{ Table uint32 }

// Kind is "vrf".
func (VRF) Kind() string { return "vrf" }

func (v VRF) put(m *Msg) { m.u32(unix.IFLA_VRF_TABLE, v.Table) }

// Tap is a device whose frames a program reads and writes by /dev/net/tun, by which alone it is made.
type Tap struct {
	Owner, Group uint32 // who may open it without CAP_NET_ADMIN; [Nobody] is none
	MultiQueue   bool
}

// Nobody is no user and no group.
const Nobody = ^uint32(0)

// Kind is "tun".
func (Tap) Kind() string { return "tun" }

func (Tap) put(*Msg) {}

// Plain is a device of a kind that has no parameters: "dummy", "ifb".
type Plain string

// Kind is the kind.
func (k Plain) Kind() string { return string(k) }

func (Plain) put(*Msg) {}

// Device decodes the data of a link of one of the kinds above; nil for others.
func (l Link) Device() Kind {
	const tap = 2 // IFF_TAP
	switch l.Kind {
	case "macvlan":
		return Macvlan{Mode: u32of(l.data(unix.IFLA_MACVLAN_MODE)), BCQueueLen: u32of(l.data(unix.IFLA_MACVLAN_BC_QUEUE_LEN))}
	case "ipvlan":
		return IPVLAN{Mode: u16of(l.data(unix.IFLA_IPVLAN_MODE))}
	case "vlan":
		return Dot1Q{ID: u16of(l.data(unix.IFLA_VLAN_ID))}
	case "vrf":
		return VRF{Table: u32of(l.data(unix.IFLA_VRF_TABLE))}
	case "dummy", "ifb":
		return Plain(l.Kind)
	case "tun":
		if u8of(l.data(unix.IFLA_TUN_TYPE)) != tap {
			return nil
		}
		t := Tap{Owner: Nobody, Group: Nobody, MultiQueue: u8of(l.data(unix.IFLA_TUN_MULTI_QUEUE)) != 0}
		if id := l.data(unix.IFLA_TUN_OWNER); id != nil {
			t.Owner = u32of(id)
		}
		if id := l.data(unix.IFLA_TUN_GROUP); id != nil {
			t.Group = u32of(id)
		}
		return t
	}
	return nil
}

// data is an attribute of the link's data; nil if it is not there.
func (l Link) data(typ uint16) []byte {
	for t, v := range attrs([]byte(l.Data)) {
		if t == typ {
			return v
		}
	}
	return nil
}
