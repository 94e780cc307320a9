//go:build linux

package rtnl

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// VLAN is one VLAN of a bridge port; comparable.
type VLAN struct {
	ID       uint16
	PVID     bool // untagged frames that enter belong to it
	Untagged bool // frames leave without a tag
}

// String is the VLAN in the words of bridge(8).
func (v VLAN) String() string {
	s := strconv.Itoa(int(v.ID))
	if v.PVID {
		s += " PVID"
	}
	if v.Untagged {
		s += " untagged"
	}
	return s
}

// AddVLANs puts a bridge port into VLANs, which are best sorted: neighbours of one kind are one range to the kernel. self
// addresses the bridge device itself.
func AddVLANs(link int, self bool, vlans ...VLAN) *Msg {
	return vlanMsg(unix.RTM_SETLINK, "add", link, self, vlans)
}

// DelVLANs takes a bridge port out of VLANs.
func DelVLANs(link int, self bool, vlans ...VLAN) *Msg {
	return vlanMsg(unix.RTM_DELLINK, "delete", link, self, vlans)
}

func vlanMsg(typ uint16, verb string, link int, self bool, vlans []VLAN) *Msg {
	m := newMsg(typ, 0, verb+" VLANs of port "+index(link), ifinfo(unix.AF_BRIDGE, link, 0, 0))
	m.nest(unix.IFLA_AF_SPEC, func() {
		if self {
			m.u16(bridgeFlags, bridgeFlagsSelf)
		} else {
			m.u16(bridgeFlags, bridgeFlagsMaster)
		}
		for len(vlans) > 0 {
			first, n := vlans[0], 1
			for n < len(vlans) && !first.PVID && vlans[n] == (VLAN{ID: first.ID + uint16(n), Untagged: first.Untagged}) {
				n++
			}
			if n == 1 {
				m.vlan(0, first)
			} else {
				m.vlan(bridgeVLANBegin, first)
				m.vlan(bridgeVLANEnd, vlans[n-1])
			}
			vlans = vlans[n:]
		}
	})
	return m
}

func (m *Msg) vlan(flags uint16, v VLAN) {
	if v.PVID {
		flags |= bridgeVLANPVID
	}
	if v.Untagged {
		flags |= bridgeVLANUntagged
	}
	m.bytes(bridgeVLANInfo, native.AppendUint16(native.AppendUint16(nil, flags), v.ID))
}

// VLANs lists the VLANs of one bridge port, or of a bridge, sorted (RTM_GETVLAN, Linux 5.6). A link that is not there is
// [io/fs.ErrNotExist].
func (c *Conn) VLANs(link int) ([]VLAN, error) {
	about := make([]byte, 8) // struct br_vlan_msg
	about[0] = unix.AF_BRIDGE
	native.PutUint32(about[4:], uint32(link))
	m := newMsg(rtmGetVLAN, 0, "list VLANs of port "+index(link), about)
	parts, err := dump(c, m, func(b []byte) ([]VLAN, bool, error) {
		if len(b) < len(about) {
			return nil, false, nil
		}
		return parseVLANs(b[len(about):]), true, nil
	})
	return slices.Concat(parts...), err
}

func parseVLANs(b []byte) (all []VLAN) {
	for t, entry := range attrs(b) {
		if t != vlanEntry {
			continue
		}
		var first, last, flags uint16
		for t, v := range attrs(entry) {
			switch {
			case t == vlanEntryInfo && len(v) >= 4:
				flags, first = native.Uint16(v), native.Uint16(v[2:])
			case t == vlanEntryRange:
				last = u16of(v)
			}
		}
		for id := int(first); id <= max(int(first), int(last)); id++ {
			all = append(all, VLAN{ID: uint16(id), PVID: flags&bridgeVLANPVID != 0, Untagged: flags&bridgeVLANUntagged != 0})
		}
	}
	return all
}
