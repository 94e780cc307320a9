//go:build linux

package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Route is a route; comparable. Zero fields other than Dst are the kernel's choice, and 0 where the kernel reports none.
type Route struct {
	Dst      netip.Prefix
	Via      netip.Addr // next hop, of either family for an IPv4 Dst
	Src      netip.Addr // preferred source address
	Link     int        // index of the device
	Table    uint32     // 0 is main
	Metric   uint32
	MTU      uint32 // bytes
	AdvMSS   uint32 // bytes
	NextHop  uint32 // id of a nexthop object, in place of Via and Link
	Proto    uint8  // who made it
	Scope    uint8
	Type     uint8 // RTN_*; 0 is unicast
	OnLink   bool  // Via need not be on a connected network
	Encap    Encap // of a tunnel device in external mode
	Multiple bool  // reported only: a route with several next hops, which no field shows
}

// Encap is the outer header that a route gives to packets on a device in external mode (lwtunnel); Dst set means there
// is one.
type Encap struct {
	ID       uint64 // VNI or key
	Dst, Src netip.Addr
	TOS, TTL uint8
	Flags    uint16 // TUNNEL_*, as the kernel reports; KeyFlag makes ID count on gre
}

// KeyFlag in [Encap] says that ID is to be sent (TUNNEL_KEY).
const KeyFlag = 0x4

// CsumFlag in [Encap] says that the outer header carries a checksum (TUNNEL_CSUM).
const CsumFlag = 0x1

func (m *Msg) rtmsg(r *Route) {
	var b [unix.SizeofRtMsg]byte
	b[0], b[1] = family(r.Dst.Addr()), uint8(r.Dst.Bits())
	table := r.Table
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	if table < 256 {
		b[4] = uint8(table)
	}
	b[5], b[6], b[7] = r.Proto, r.Scope, r.Type
	if r.Type == 0 {
		b[7] = unix.RTN_UNICAST
	}
	if r.OnLink {
		native.PutUint32(b[8:], unix.RTNH_F_ONLINK)
	}
	m.raw(b[:])
}

// NewRoute adds a route; one for the same destination, metric and table is [io/fs.ErrExist].
func NewRoute(r Route) *Msg {
	return new(Msg).route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add", &r)
}

// ReplaceRoute adds a route or replaces the one for the same destination, metric and table.
func ReplaceRoute(r Route) *Msg { return new(Msg).ReplaceRoute(&r) }

// ReplaceRoute makes m what the function of this name returns.
func (m *Msg) ReplaceRoute(r *Route) *Msg {
	return m.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "replace", r)
}

// AppendRoute adds a route beside those for the same destination: for IPv6 one more next hop.
func AppendRoute(r Route) *Msg {
	return new(Msg).route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "append", &r)
}

// DelRoute removes the route that agrees in every field that is set.
func DelRoute(r Route) *Msg { return new(Msg).DelRoute(&r) }

// DelRoute makes m what the function of this name returns.
func (m *Msg) DelRoute(r *Route) *Msg { return m.route(unix.RTM_DELROUTE, 0, "delete", r) }

func (m *Msg) route(typ, flags uint16, verb string, r *Route) *Msg {
	m.start(typ, flags, verb, nil)
	m.about = aboutRoute
	m.rtmsg(r)
	if typ == unix.RTM_DELROUTE {
		h := m.b[headerLen:]
		if r.Scope == 0 {
			h[6] = unix.RT_SCOPE_NOWHERE
		}
		h[7] = r.Type
	}
	if r.Dst.Bits() > 0 {
		m.ip(unix.RTA_DST, r.Dst.Addr())
	}
	if r.Via.IsValid() {
		if r.Via.Is4() == r.Dst.Addr().Is4() {
			m.ip(unix.RTA_GATEWAY, r.Via)
		} else {
			via := native.AppendUint16(nil, uint16(family(r.Via)))
			m.bytes(unix.RTA_VIA, append(via, r.Via.AsSlice()...))
		}
	}
	if r.Src.IsValid() {
		m.ip(unix.RTA_PREFSRC, r.Src)
	}
	for _, a := range []struct {
		typ uint16
		v   uint32
	}{{unix.RTA_OIF, uint32(r.Link)}, {unix.RTA_PRIORITY, r.Metric}, {rtaNextHopID, r.NextHop}, {unix.RTA_TABLE, r.Table}} {
		if a.v != 0 {
			m.u32(a.typ, a.v)
		}
	}
	if r.MTU != 0 || r.AdvMSS != 0 {
		m.nest(unix.RTA_METRICS, func() {
			if r.MTU != 0 {
				m.u32(unix.RTAX_MTU, r.MTU)
			}
			if r.AdvMSS != 0 {
				m.u32(unix.RTAX_ADVMSS, r.AdvMSS)
			}
		})
	}
	if r.Encap.Dst.IsValid() {
		m.encap(r.Encap)
	}
	return m
}

func aboutRoute(body []byte) string {
	r, _ := parseRoute(body)
	return r.String()
}

// LWTUNNEL_IP_* and LWTUNNEL_IP6_* of linux/lwtunnel.h; the two enumerations agree in these.
const (
	encapID = iota + 1
	encapDst
	encapSrc
	encapTTL
	encapTOS
	encapFlags
)

// In LWTUNNEL_IP6_* hop limit and traffic class stand where IPv4 has TTL and TOS.
func (m *Msg) encap(e Encap) {
	kind := uint16(lwtunnelIP)
	if !e.Dst.Is4() {
		kind = lwtunnelIP6
	}
	m.u16(unix.RTA_ENCAP_TYPE, kind)
	m.nest(unix.RTA_ENCAP, func() {
		if e.ID != 0 || e.Flags&KeyFlag != 0 {
			m.be64(encapID, e.ID)
		}
		m.ip(encapDst, e.Dst)
		if e.Src.IsValid() {
			m.ip(encapSrc, e.Src)
		}
		if e.TTL != 0 {
			m.u8(encapTTL, e.TTL)
		}
		if e.TOS != 0 {
			m.u8(encapTOS, e.TOS)
		}
		if e.Flags != 0 {
			m.be16(encapFlags, e.Flags)
		}
	})
}

// RouteFilter narrows a listing; zero fields do not.
type RouteFilter struct {
	Family uint8 // AF_INET, AF_INET6
	Table  uint32
	Proto  uint8
	Link   int
}

// Routes lists routes, without cloned and cached ones.
func (c *Conn) Routes(f RouteFilter) ([]Route, error) { return c.RoutesInto(nil, f) }

// RoutesInto is Routes into a slice whose values are no longer needed.
func (c *Conn) RoutesInto(old []Route, f RouteFilter) ([]Route, error) {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[5] = f.Family, f.Proto
	m := newMsg(unix.RTM_GETROUTE, 0, "list routes", b)
	if f.Table != 0 {
		m.u32(unix.RTA_TABLE, f.Table)
	}
	if f.Link != 0 {
		m.u32(unix.RTA_OIF, uint32(f.Link))
	}
	routes, err := dumpInto(old, c, m, func(r *Route, b []byte) (bool, error) {
		ok := r.parse(b) && (f.Table == 0 || r.Table == f.Table) && (f.Proto == 0 || r.Proto == f.Proto) && (f.Link == 0 || r.Link == f.Link)
		return ok, nil
	})
	return routes, Except(err, unix.ENOENT) // a table without routes is none that the kernel knows
}

func parseRoute(b []byte) (r Route, ok bool) {
	ok = r.parse(b)
	return r, ok
}

// parse reads what the kernel reports; false says that it is no route, or a cloned one.
func (r *Route) parse(b []byte) bool {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return false
	}
	if native.Uint32(b[8:])&unix.RTM_F_CLONED != 0 {
		return false
	}
	*r = Route{Table: uint32(b[4]), Proto: b[5], Scope: b[6], Type: b[7]}
	r.OnLink = native.Uint32(b[8:])&unix.RTNH_F_ONLINK != 0
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	var encap []byte
	for t, v := range attrs(b[unix.SizeofRtMsg:]) {
		switch t {
		case unix.RTA_DST:
			dst = addrOf(v)
		case unix.RTA_GATEWAY:
			r.Via = addrOf(v)
		case unix.RTA_VIA:
			r.Via = addrOf(v[min(2, len(v)):])
		case unix.RTA_PREFSRC:
			r.Src = addrOf(v)
		case unix.RTA_OIF:
			r.Link = int(u32of(v))
		case unix.RTA_TABLE:
			r.Table = u32of(v)
		case unix.RTA_PRIORITY:
			r.Metric = u32of(v)
		case rtaNextHopID:
			r.NextHop = u32of(v)
		case unix.RTA_MULTIPATH:
			r.Multiple = true
		case unix.RTA_ENCAP:
			encap = v
		case unix.RTA_METRICS:
			for t, v := range attrs(v) {
				switch t {
				case unix.RTAX_MTU:
					r.MTU = u32of(v)
				case unix.RTAX_ADVMSS:
					r.AdvMSS = u32of(v)
				}
			}
		}
	}
	if encap != nil {
		r.Encap = parseEncap(encap)
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	return r.Dst.IsValid()
}

func parseEncap(b []byte) (e Encap) {
	for t, v := range attrs(b) {
		switch t {
		case encapID:
			e.ID = be64of(v)
		case encapDst:
			e.Dst = addrOf(v)
		case encapSrc:
			if a := addrOf(v); !a.IsUnspecified() {
				e.Src = a
			}
		case encapTTL:
			e.TTL = u8of(v)
		case encapTOS:
			e.TOS = u8of(v)
		case encapFlags:
			if len(v) >= 2 {
				e.Flags = binary.BigEndian.Uint16(v)
			}
		}
	}
	return e
}

// String is the route in the words of ip-route(8).
func (r Route) String() string {
	s := "route " + r.Dst.String()
	if r.Encap.Dst.IsValid() {
		s += fmt.Sprintf(" encap id %d dst %s", r.Encap.ID, r.Encap.Dst)
	}
	if r.NextHop != 0 {
		s += fmt.Sprintf(" nhid %d", r.NextHop)
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Link != 0 {
		s += fmt.Sprintf(" dev #%d", r.Link)
	}
	if r.Src.IsValid() {
		s += " src " + r.Src.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.Table != 0 && r.Table != unix.RT_TABLE_MAIN {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	return s
}
