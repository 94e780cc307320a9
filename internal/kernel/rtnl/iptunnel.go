//go:build linux

package rtnl

import (
	"encoding/binary"
	"net/netip"
)

// What golang.org/x/sys/unix lacks of linux/if_tunnel.h.
const (
	greLink     = 1  // IFLA_GRE_LINK
	greIFlags   = 2  // IFLA_GRE_IFLAGS
	greOFlags   = 3  // IFLA_GRE_OFLAGS
	greIKey     = 4  // IFLA_GRE_IKEY
	greOKey     = 5  // IFLA_GRE_OKEY
	greLocal    = 6  // IFLA_GRE_LOCAL
	greRemote   = 7  // IFLA_GRE_REMOTE
	greTTL      = 8  // IFLA_GRE_TTL
	greTOS      = 9  // IFLA_GRE_TOS
	greFlags    = 13 // IFLA_GRE_FLAGS
	greExternal = 18 // IFLA_GRE_COLLECT_METADATA

	greKey = 0x2000 // GRE_KEY

	iptunLocal      = 2  // IFLA_IPTUN_LOCAL
	iptunRemote     = 3  // IFLA_IPTUN_REMOTE
	iptunTTL        = 4  // IFLA_IPTUN_TTL
	iptunTOS        = 5  // IFLA_IPTUN_TOS
	iptunEncapLimit = 6  // IFLA_IPTUN_ENCAP_LIMIT
	iptunFlags      = 8  // IFLA_IPTUN_FLAGS
	iptunProto      = 9  // IFLA_IPTUN_PROTO
	iptunPMTUDisc   = 10 // IFLA_IPTUN_PMTUDISC
	iptunExternal   = 19 // IFLA_IPTUN_COLLECT_METADATA

	ignoreEncapLimit = 1 // IP6_TNL_F_IGN_ENCAP_LIMIT: no destination option of 8 bytes in each packet
)

// GRE is a device of RFC 2784 with the key of RFC 2890.
type GRE struct {
	V6            bool       // the underlay is IPv6
	Tap           bool       // Ethernet inside
	Local, Remote netip.Addr // not set where External is
	Key           uint32     // sent and demanded
	Keyed         bool       // Key counts
	TTL           uint8      // 0 is that of the packet inside; over IPv6 64
	TOS           uint8      // 1 is that of the packet inside; over IPv4 only
	External      bool       // remote address and key come with the packet, from a route's [Encap]
}

// Kind is "gre", "gretap", "ip6gre" or "ip6gretap".
func (g GRE) Kind() string {
	kind := "gre"
	if g.V6 {
		kind = "ip6gre"
	}
	if g.Tap {
		kind += "tap"
	}
	return kind
}

func (g GRE) put(m *Msg) {
	if g.External {
		m.bytes(greExternal, nil)
		return
	}
	m.ip(greLocal, g.Local)
	m.ip(greRemote, g.Remote)
	m.u8(greTTL, g.TTL)
	m.u8(greTOS, g.TOS)
	if g.Keyed {
		m.be16(greIFlags, greKey)
		m.be16(greOFlags, greKey)
		m.be32(greIKey, g.Key)
		m.be32(greOKey, g.Key)
	}
	if g.V6 {
		m.u32(greFlags, ignoreEncapLimit)
	}
}

func parseGRE(kind string, b []byte) GRE {
	g := GRE{V6: kind == "ip6gre" || kind == "ip6gretap", Tap: kind == "gretap" || kind == "ip6gretap"}
	for t, a := range attrs(b) {
		switch t {
		case greLocal:
			g.Local = specified(a)
		case greRemote:
			g.Remote = specified(a)
		case greOKey:
			g.Key = be32of(a)
		case greOFlags:
			g.Keyed = be16of(a)&greKey != 0
		case greTTL:
			g.TTL = u8of(a)
		case greTOS:
			g.TOS = u8of(a)
		case greExternal:
			g.External = true
		}
	}
	if g.External {
		return GRE{V6: g.V6, Tap: g.Tap, External: true}
	}
	return g
}

// IPTunnel is a device that puts IP straight into IP: "ipip" and "sit" over IPv4, "ip6tnl" over IPv6.
type IPTunnel struct {
	Type          string
	Local, Remote netip.Addr // no Remote: the next hop of the route is it
	TTL, TOS      uint8      // 0 is the kernel's choice
	External      bool       // remote address comes with the packet, from a route's [Encap]
}

// Kind is the type.
func (t IPTunnel) Kind() string { return t.Type }

func (t IPTunnel) put(m *Msg) {
	if t.Type == "ip6tnl" {
		m.u8(iptunProto, 0) // either family inside
	}
	if t.External {
		m.bytes(iptunExternal, nil)
		return
	}
	m.ip(iptunLocal, t.Local)
	if t.Remote.IsValid() {
		m.ip(iptunRemote, t.Remote)
	}
	m.u8(iptunTTL, t.TTL)
	m.u8(iptunTOS, t.TOS)
	if t.Type == "ip6tnl" {
		m.u32(iptunFlags, ignoreEncapLimit)
	} else {
		m.u8(iptunPMTUDisc, 1) // DF is set, so that the path's MTU is found
	}
}

func parseIPTunnel(kind string, b []byte) IPTunnel {
	p := IPTunnel{Type: kind}
	for t, a := range attrs(b) {
		switch t {
		case iptunLocal:
			p.Local = specified(a)
		case iptunRemote:
			p.Remote = specified(a)
		case iptunTTL:
			p.TTL = u8of(a)
		case iptunTOS:
			p.TOS = u8of(a)
		case iptunExternal:
			p.External = true
		}
	}
	if p.External {
		return IPTunnel{Type: kind, External: true}
	}
	return p
}

func be32of(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
