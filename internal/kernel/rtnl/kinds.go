//go:build linux

package rtnl

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
)

// Kind is what makes a link of its kind the one that it is; the implementations in this package are comparable
// with ==. A zero field is off or the kernel's default, unless its comment says otherwise.
type Kind interface {
	Kind() string // as in ip-link(8)
	put(m *Msg)
}

// Tunnel is the Kind of a device that carries packets to other nodes.
type Tunnel Kind

// NewTunnel makes a tunnel device, down. A name that is taken is [io/fs.ErrExist], as is a device of the same
// parameters under another name; some kinds say EBUSY or EADDRINUSE to the latter. mac and mtu may be zero.
func NewTunnel(name string, mac inet.MAC, mtu int, t Tunnel) *Msg {
	return NewLink(New{Name: name, Kind: t, MAC: mac, MTU: mtu})
}

// NoLinkLocal keeps a link from giving itself an IPv6 address when it is set up (ip-link(8), addrgenmode none).
func NoLinkLocal(name string) *Msg {
	const (
		genMode = 8 // IFLA_INET6_ADDR_GEN_MODE
		none    = 1 // IN6_ADDR_GEN_MODE_NONE
	)
	m := newMsg(unix.RTM_NEWLINK, 0, "set addrgenmode of "+name, ifinfo(0, 0, 0, 0))
	m.str(unix.IFLA_IFNAME, name)
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET6, func() { m.u8(genMode, none) })
	})
	return m
}

// ARPNotify has a link tell of its IPv4 addresses when it comes up or gets another MAC (arp_notify of ip-sysctl).
func ARPNotify(link int) *Msg {
	const (
		conf      = 1  // IFLA_INET_CONF
		arpNotify = 22 // IPV4_DEVCONF_ARP_NOTIFY
	)
	m := newMsg(unix.RTM_NEWLINK, 0, "set arp_notify of "+index(link), ifinfo(0, link, 0, 0))
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET, func() {
			m.nest(conf, func() { m.u32(arpNotify, 1) })
		})
	})
	return m
}

// Tunnel decodes the data of a tunnel device; nil for links of other kinds.
func (l Link) Tunnel() Tunnel {
	data := []byte(l.Data)
	switch l.Kind {
	case "vxlan":
		return parseVXLAN(data)
	case "geneve":
		return parseGeneve(data)
	case "wireguard":
		return WireGuard{}
	case "gre", "gretap", "ip6gre", "ip6gretap":
		return parseGRE(l.Kind, data)
	case "ipip", "sit", "ip6tnl":
		return parseIPTunnel(l.Kind, data)
	}
	return nil
}

// VXLAN is a device of RFC 7348, or of VXLAN-GPE.
type VXLAN struct {
	VNI      uint32
	Port     uint16     // UDP; 0 is the kernel's 8472
	Local    netip.Addr // own address, which also says the family of the underlay
	Link     int        // index of the device underneath; 0 is whatever the routes say
	Learning bool       // remote MACs from received frames
	GBP      bool       // group policy extension
	GPE      bool       // any protocol inside instead of Ethernet
	External bool       // remote address and VNI come with the packet, from a route's [Encap]
}

// Kind is "vxlan".
func (VXLAN) Kind() string { return "vxlan" }

func (v VXLAN) put(m *Msg) {
	m.u32(unix.IFLA_VXLAN_ID, v.VNI)
	m.flag(unix.IFLA_VXLAN_LEARNING, v.Learning)
	if v.Port != 0 {
		m.be16(unix.IFLA_VXLAN_PORT, v.Port)
	}
	if v.Local.Is4() {
		m.ip(unix.IFLA_VXLAN_LOCAL, v.Local)
	} else if v.Local.IsValid() {
		m.ip(unix.IFLA_VXLAN_LOCAL6, v.Local)
	}
	if v.Link != 0 {
		m.u32(unix.IFLA_VXLAN_LINK, uint32(v.Link))
	}
	if v.GBP {
		m.bytes(unix.IFLA_VXLAN_GBP, nil)
	}
	if v.GPE {
		m.bytes(unix.IFLA_VXLAN_GPE, nil)
	}
	if v.External {
		m.flag(unix.IFLA_VXLAN_COLLECT_METADATA, true)
	}
}

func parseVXLAN(b []byte) (v VXLAN) {
	for t, a := range attrs(b) {
		switch t {
		case unix.IFLA_VXLAN_ID:
			v.VNI = u32of(a)
		case unix.IFLA_VXLAN_PORT:
			v.Port = be16of(a)
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			v.Local = specified(a)
		case unix.IFLA_VXLAN_LINK:
			v.Link = int(u32of(a))
		case unix.IFLA_VXLAN_LEARNING:
			v.Learning = u8of(a) != 0
		case unix.IFLA_VXLAN_GBP:
			v.GBP = true
		case unix.IFLA_VXLAN_GPE:
			v.GPE = true
		case unix.IFLA_VXLAN_COLLECT_METADATA:
			v.External = u8of(a) != 0
		}
	}
	return v
}

// Geneve is a device of RFC 8926.
type Geneve struct {
	VNI      uint32
	Port     uint16     // UDP; 0 is the kernel's 6081
	Remote   netip.Addr // not set where External is
	External bool       // remote address and VNI come with the packet, from a route's [Encap]
	InnerIP  bool       // IP packets inside instead of Ethernet frames (innerprotoinherit, Linux 5.18)
}

// Kind is "geneve".
func (Geneve) Kind() string { return "geneve" }

func (g Geneve) put(m *Msg) {
	if !g.External {
		m.u32(unix.IFLA_GENEVE_ID, g.VNI)
	}
	if g.Port != 0 {
		m.be16(unix.IFLA_GENEVE_PORT, g.Port)
	}
	if g.Remote.Is4() {
		m.ip(unix.IFLA_GENEVE_REMOTE, g.Remote)
	} else if g.Remote.IsValid() {
		m.ip(unix.IFLA_GENEVE_REMOTE6, g.Remote)
	}
	if g.External {
		m.bytes(unix.IFLA_GENEVE_COLLECT_METADATA, nil)
	}
	if g.InnerIP {
		m.bytes(unix.IFLA_GENEVE_INNER_PROTO_INHERIT, nil)
	}
}

func parseGeneve(b []byte) (g Geneve) {
	for t, a := range attrs(b) {
		switch t {
		case unix.IFLA_GENEVE_ID:
			g.VNI = u32of(a)
		case unix.IFLA_GENEVE_PORT:
			g.Port = be16of(a)
		case unix.IFLA_GENEVE_REMOTE, unix.IFLA_GENEVE_REMOTE6:
			g.Remote = specified(a)
		case unix.IFLA_GENEVE_COLLECT_METADATA:
			g.External = true
		case unix.IFLA_GENEVE_INNER_PROTO_INHERIT:
			g.InnerIP = true
		}
	}
	if g.External {
		g.VNI = 0
	}
	return g
}

// WireGuard is a device whose parameters generic netlink holds (wg(8)).
type WireGuard struct{}

// Kind is "wireguard".
func (WireGuard) Kind() string { return "wireguard" }

func (WireGuard) put(*Msg) {}

// specified is an address, none if it is 0.0.0.0 or ::.
func specified(b []byte) netip.Addr {
	if a := addrOf(b); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}
