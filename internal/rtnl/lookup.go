//go:build linux

package rtnl

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	rtmFIBMatch = 0x2000 // RTM_F_FIB_MATCH
	fraPriority = 6      // FRA_PRIORITY
	fraTable    = 15     // FRA_TABLE
)

// RouteTo asks which way a packet to dst goes from here; got is called with the answer, whose Dst is dst and whose Type
// says whether dst is local, unicast or no place at all. No route is [io/fs.ErrNotExist] or unix.ENETUNREACH.
func RouteTo(dst netip.Addr, got func(Route)) *Msg { return lookup(dst, 0, got) }

// MatchRoute asks which route of the tables a packet to dst follows; got is called with that route.
func MatchRoute(dst netip.Addr, got func(Route)) *Msg { return lookup(dst, rtmFIBMatch, got) }

func lookup(dst netip.Addr, flags uint32, got func(Route)) *Msg {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = family(dst), uint8(dst.BitLen())
	native.PutUint32(b[8:], flags)
	m := newMsg(unix.RTM_GETROUTE, 0, "find the route to", b)
	m.about = func([]byte) string { return dst.String() }
	m.ip(unix.RTA_DST, dst)
	m.reply = func(body []byte) {
		if len(body) < unix.SizeofRtMsg {
			return
		}
		native.PutUint32(body[8:], native.Uint32(body[8:])&^uint32(unix.RTM_F_CLONED))
		if r, ok := parseRoute(body); ok {
			got(r)
		}
	}
	return m
}

// OnlyDefaultRules reports whether the routing rules are the kernel's own, so that local, main and default decide alone
// (ip-rule(8)).
func (c *Conn) OnlyDefaultRules() (bool, error) {
	plain := true
	m := newMsg(unix.RTM_GETRULE, 0, "list rules", make([]byte, 12))
	_, err := dump(c, m, func(b []byte) (struct{}, bool, error) {
		if len(b) < 12 {
			return struct{}{}, false, fmt.Errorf("malformed rule")
		}
		prio, table := uint32(0), uint32(b[4])
		for t, v := range attrs(b[12:]) {
			switch t {
			case fraPriority:
				prio = u32of(v)
			case fraTable:
				table = u32of(v)
			}
		}
		switch {
		case b[0] != unix.AF_INET && b[0] != unix.AF_INET6: // the multicast families have rules of their own
		case b[1] != 0 || b[2] != 0 || b[3] != 0:
			plain = false
		case prio == 0 && table == unix.RT_TABLE_LOCAL, prio == 32766 && table == unix.RT_TABLE_MAIN,
			prio == 32767 && table == unix.RT_TABLE_DEFAULT:
		default:
			plain = false
		}
		return struct{}{}, false, nil
	})
	return plain, err
}

// GetLinkIndex asks for an interface by index; got is called with it. None of that index is [io/fs.ErrNotExist].
func GetLinkIndex(i int, got func(Link)) *Msg {
	m := newMsg(unix.RTM_GETLINK, 0, "find the link of index "+strconv.Itoa(i), ifinfo(0, i, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	m.reply = func(body []byte) { got(parseLink(body)) }
	return m
}
