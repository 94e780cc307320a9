//go:build linux

package rtnl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VLAN is one VLAN of a bridge port; comparable.
type VLAN struct {
	ID       uint16
	PVID     bool // untagged frames that enter belong to it
	Untagged bool // frames leave without a tag
}

// AddVLANs puts a bridge port into VLANs; self addresses the bridge device itself.
func AddVLANs(index int, self bool, vlans ...VLAN) *Msg {
	return vlanMsg(unix.RTM_SETLINK, "add", index, self, vlans)
}

// DelVLANs takes a bridge port out of VLANs.
func DelVLANs(index int, self bool, vlans ...VLAN) *Msg {
	return vlanMsg(unix.RTM_DELLINK, "delete", index, self, vlans)
}

func vlanMsg(typ uint16, verb string, index int, self bool, vlans []VLAN) *Msg {
	m := newMsg(typ, 0, fmt.Sprintf("%s VLANs of port %d", verb, index), ifinfo(unix.AF_BRIDGE, index, 0, 0))
	m.nest(unix.IFLA_AF_SPEC, func() {
		if self {
			m.u16(bridgeFlags, bridgeFlagsSelf)
		} else {
			m.u16(bridgeFlags, bridgeFlagsMaster)
		}
		for _, v := range vlans {
			var flags uint16
			if v.PVID {
				flags |= bridgeVLANPVID
			}
			if v.Untagged {
				flags |= bridgeVLANUntagged
			}
			m.bytes(bridgeVLANInfo, native.AppendUint16(native.AppendUint16(nil, flags), v.ID))
		}
	})
	return m
}

// VLANs lists the VLANs of bridge ports (and bridges) by link index.
func (c *Conn) VLANs() (map[int][]VLAN, error) {
	m := newMsg(unix.RTM_GETLINK, 0, "list VLANs", ifinfo(unix.AF_BRIDGE, 0, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, filterBridgeVLAN)
	type port struct {
		index int
		vlans []VLAN
	}
	ports, err := dump(c, m, func(b []byte) (port, bool, error) {
		p := port{index: parseLink(b).Index}
		for t, v := range attrs(b[unix.SizeofIfInfomsg:]) {
			if t != unix.IFLA_AF_SPEC {
				continue
			}
			for t, v := range attrs(v) {
				if t == bridgeVLANInfo && len(v) >= 4 {
					f := native.Uint16(v)
					p.vlans = append(p.vlans, VLAN{ID: native.Uint16(v[2:]), PVID: f&bridgeVLANPVID != 0, Untagged: f&bridgeVLANUntagged != 0})
				}
			}
		}
		return p, len(p.vlans) > 0, nil
	})
	if err != nil {
		return nil, err
	}
	all := make(map[int][]VLAN, len(ports))
	for _, p := range ports {
		all[p.index] = append(all[p.index], p.vlans...)
	}
	return all, nil
}
