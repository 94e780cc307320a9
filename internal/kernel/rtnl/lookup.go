//go:build linux

package rtnl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	rtmFIBMatch = 0x2000 // RTM_F_FIB_MATCH

	ruleLen        = 12 // struct fib_rule_hdr
	ruleToTable    = 1  // FR_ACT_TO_TBL
	ruleInvert     = 2  // FIB_RULE_INVERT
	fraPriority    = 6  // FRA_PRIORITY
	fraFlow        = 11
	fraSuppressLen = 14 // FRA_SUPPRESS_PREFIXLEN
	fraTable       = 15
	fraProtocol    = 21
)

// RouteTo asks which way a packet to dst goes from here; got is called with the answer, whose Dst is dst and whose Type
// says whether dst is local, unicast or no place at all. No route is [io/fs.ErrNotExist] or unix.ENETUNREACH.
func RouteTo(dst netip.Addr, got func(Route)) *Msg { return lookup(dst, 0, got) }

// MatchRoute asks which route of the tables a packet to dst follows; got is called with that route.
func MatchRoute(dst netip.Addr, got func(Route)) *Msg { return lookup(dst, rtmFIBMatch, got) }

// WayOut asks which link packets to dst leave by that come from src, one of this node's addresses, or the zero value; got is
// called with its index, 0 where there are several. No route, or none for what comes from there, is an error; got is not
// called either where the link has no carrier.
func WayOut(src, dst netip.Addr, got func(link int)) *Msg {
	m := lookup(dst, rtmFIBMatch, nil)
	if src.IsValid() {
		m.b[headerLen+2] = uint8(src.BitLen())
		m.ip(unix.RTA_SRC, src)
	}
	m.reply = func(body []byte) {
		if r, ok := parseRoute(body); ok && r.Type == unix.RTN_UNICAST && native.Uint32(body[8:])&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) == 0 {
			got(r.Link)
		}
	}
	return m
}

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

// Rule is a routing rule (ip-rule(8)).
type Rule struct {
	Family   uint8 // unix.AF_INET or AF_INET6
	Priority uint32
	Table    uint32 // that it looks into; 0 if it does something else
	Plain    bool   // it is for all packets, and takes whatever the table says
}

// Rules lists the routing rules of IPv4 and IPv6.
func (c *Conn) Rules() ([]Rule, error) {
	m := newMsg(unix.RTM_GETRULE, 0, "list rules", make([]byte, ruleLen))
	return dump(c, m, func(b []byte) (Rule, bool, error) {
		if len(b) < ruleLen {
			return Rule{}, false, fmt.Errorf("malformed rule")
		}
		r := Rule{Family: b[0], Table: uint32(b[4]), Plain: b[1] == 0 && b[2] == 0 && b[3] == 0 && native.Uint32(b[8:])&ruleInvert == 0}
		for t, v := range attrs(b[ruleLen:]) {
			switch t {
			case fraPriority:
				r.Priority = u32of(v)
			case fraTable:
				r.Table = u32of(v)
			case fraSuppressLen:
				r.Plain = r.Plain && u32of(v) == ^uint32(0)
			case fraProtocol, fraFlow:
			default:
				r.Plain = false
			}
		}
		if b[7] != ruleToTable {
			r.Table, r.Plain = 0, false
		}
		return r, r.Family == unix.AF_INET || r.Family == unix.AF_INET6, nil // the multicast families have rules of their own
	})
}

// AddRule makes a plain rule that looks into a table.
func AddRule(r Rule) *Msg {
	b := make([]byte, ruleLen)
	b[0], b[7] = r.Family, ruleToTable
	m := newMsg(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, fmt.Sprintf("add the rule %d that looks into table %d", r.Priority, r.Table), b)
	m.u32(fraPriority, r.Priority)
	m.u32(fraTable, r.Table)
	return m
}

// OnlyDefaultRules reports whether the routing rules are the kernel's own, so that local, main and default decide alone.
func (c *Conn) OnlyDefaultRules() (bool, error) {
	rules, err := c.Rules()
	foreign := slices.ContainsFunc(rules, func(r Rule) bool {
		r.Family = 0
		return r != Rule{Table: unix.RT_TABLE_LOCAL, Plain: true} && r != Rule{Priority: 32766, Table: unix.RT_TABLE_MAIN, Plain: true} &&
			r != Rule{Priority: 32767, Table: unix.RT_TABLE_DEFAULT, Plain: true}
	})
	return !foreign, err
}

// GetLinkIndex asks for an interface by index; got is called with it. None of that index is [io/fs.ErrNotExist].
func GetLinkIndex(i int, got func(Link)) *Msg {
	m := newMsg(unix.RTM_GETLINK, 0, "find the link of index "+strconv.Itoa(i), ifinfo(0, i, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	m.reply = func(body []byte) { got(parseLink(body)) }
	return m
}
