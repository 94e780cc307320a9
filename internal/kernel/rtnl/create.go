//go:build linux

package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
)

// End is one end of a veth pair to be made. Zero fields are the kernel's choice.
type End struct {
	Name string
	MAC  inet.MAC
	MTU  int
}

// NewVeth makes a pair: host in the namespace of the socket, up and, if master is not 0, on that bridge; pod, down, in the
// namespace behind the descriptor podNS. One queue each way: more cost grace periods and gain nothing on a veth. got is
// called with the host end as it was made, on kernels that echo (6.2); its Peer is the pod end's index.
func NewVeth(host, pod End, podNS, master int, got func(Link)) *Msg {
	m := newMsg(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ECHO, "add veth "+host.Name,
		ifinfo(0, 0, unix.IFF_UP, unix.IFF_UP))
	m.end(host)
	if master != 0 {
		m.u32(unix.IFLA_MASTER, uint32(master))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func() {
			const peer = 1 // VETH_INFO_PEER
			m.nest(peer, func() {
				m.raw(ifinfo(0, 0, 0, 0))
				m.end(pod)
				m.u32(unix.IFLA_NET_NS_FD, uint32(podNS))
			})
		})
	})
	m.reply = func(body []byte) { got(parseLink(body)) }
	return m
}

func (m *Msg) end(e End) {
	m.str(unix.IFLA_IFNAME, e.Name)
	if e.MAC != (inet.MAC{}) {
		m.bytes(unix.IFLA_ADDRESS, e.MAC[:])
	}
	if e.MTU != 0 {
		m.u32(unix.IFLA_MTU, uint32(e.MTU))
	}
	m.u32(unix.IFLA_NUM_TX_QUEUES, 1)
	m.u32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// Bridge is a bridge to be made. Zero fields are the kernel's choice.
type Bridge struct {
	Name          string
	MAC           inet.MAC // a stated address stays, whatever ports come and go
	MTU           int
	VLANFiltering bool
	Group         uint32
}

// NewBridge makes a bridge and sets it up; a name that is taken is [io/fs.ErrExist].
func NewBridge(b Bridge) *Msg {
	return NewLink(New{Name: b.Name, Kind: bridge{b.VLANFiltering}, MAC: b.MAC, MTU: b.MTU, Group: b.Group, Up: true})
}

type bridge struct{ vlanFiltering bool }

func (bridge) Kind() string { return "bridge" }

func (b bridge) put(m *Msg) {
	if b.vlanFiltering {
		m.flag(bridgeVLANFiltering, true)
	}
}

// New is a link to be made. Zero fields are the kernel's choice.
type New struct {
	Name   string
	Kind   Kind
	MAC    inet.MAC
	MTU    int
	Group  uint32
	Lower  int  // index of the device that it stands on, in the namespace of the socket
	Master int  // index of its bridge or VRF, in the same
	Into   int  // descriptor of the namespace that it is made in, if Other
	Other  bool // it is made in another namespace than the socket's
	Up     bool
}

// NewLink makes a link. A name that is taken is [io/fs.ErrExist]; before Linux 6.14 so is one that is taken in the namespace of
// the socket, in whichever the link is made.
func NewLink(n New) *Msg {
	var flags uint32
	if n.Up {
		flags = unix.IFF_UP
	}
	m := newMsg(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add "+n.Kind.Kind()+" "+n.Name, ifinfo(0, 0, flags, flags))
	m.str(unix.IFLA_IFNAME, n.Name)
	if n.MAC != (inet.MAC{}) {
		m.bytes(unix.IFLA_ADDRESS, n.MAC[:])
	}
	for _, a := range [...]struct {
		typ   uint16
		value int
	}{{unix.IFLA_MTU, n.MTU}, {unix.IFLA_GROUP, int(n.Group)}, {unix.IFLA_LINK, n.Lower}, {unix.IFLA_MASTER, n.Master}} {
		if a.value != 0 {
			m.u32(a.typ, uint32(a.value))
		}
	}
	if n.Other {
		m.u32(unix.IFLA_NET_NS_FD, uint32(n.Into))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_KIND, n.Kind.Kind())
		m.nest(unix.IFLA_INFO_DATA, func() { n.Kind.put(m) })
	})
	return m
}

// BridgeData is what a bridge tells of itself.
type BridgeData struct {
	VLANFiltering bool
	DefaultPVID   uint16
}

// Bridge decodes the data of a link of kind "bridge".
func (l Link) Bridge() BridgeData {
	var d BridgeData
	for t, v := range attrs([]byte(l.Data)) {
		switch t {
		case bridgeVLANFiltering:
			d.VLANFiltering = u8of(v) != 0
		case bridgeDefaultPVID:
			d.DefaultPVID = u16of(v)
		}
	}
	return d
}

// SetVLANFiltering switches VLAN filtering of a bridge on.
func SetVLANFiltering(bridge string) *Msg {
	m := newMsg(unix.RTM_NEWLINK, 0, "switch on VLAN filtering of "+bridge, ifinfo(0, 0, 0, 0))
	m.str(unix.IFLA_IFNAME, bridge)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_KIND, "bridge")
		m.nest(unix.IFLA_INFO_DATA, func() { m.flag(bridgeVLANFiltering, true) })
	})
	return m
}
