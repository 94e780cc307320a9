//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// Port is what a port of a bridge with VLAN filtering carries (bridge(8), "vlan"). The zero value is a port as the bridge
// makes it, in its default VLAN.
type Port struct {
	VLAN        uint16   // untagged frames belong to it; 0 is the default VLAN
	Trunk       []uint16 // VLANs that pass tagged
	KeepDefault bool     // stay in the bridge's default VLAN too
}

// MaxVLAN is the highest VLAN ID (IEEE 802.1Q).
const MaxVLAN = 4094

// check names what the kernel calls an invalid argument.
func (p Port) check() error {
	if p.VLAN > MaxVLAN {
		return fmt.Errorf("VLAN %d: want 1 to %d, or 0 for the bridge's default", p.VLAN, MaxVLAN)
	}
	for _, id := range p.Trunk {
		if id == 0 || id > MaxVLAN {
			return fmt.Errorf("trunk with VLAN %d: want 1 to %d", id, MaxVLAN)
		}
	}
	return nil
}

func (p Port) plain() bool { return p.VLAN == 0 && len(p.Trunk) == 0 }

func (p Port) vlans() []rtnl.VLAN {
	var v []rtnl.VLAN
	switch {
	case p.VLAN != 0:
		v = append(v, rtnl.VLAN{ID: p.VLAN, PVID: true, Untagged: true})
	case len(p.Trunk) > 0: // untagged frames of a trunk without a native VLAN go to 1, as the reference has it
		v = append(v, rtnl.VLAN{ID: 1, PVID: true, Untagged: true})
	}
	for _, id := range p.Trunk {
		if id != p.VLAN && !slices.ContainsFunc(v, func(o rtnl.VLAN) bool { return o.ID == id }) {
			v = append(v, rtnl.VLAN{ID: id})
		}
	}
	return v
}

// InVLAN reports whether the untagged frames of a port, given by its index, belong to a VLAN.
func InVLAN(_ context.Context, ns *netns.NS, index int, vlan uint16) (bool, error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return false, err
	}
	vlans, err := c.VLANs(index)
	return slices.ContainsFunc(vlans, func(v rtnl.VLAN) bool { return v.PVID && v.ID == vlan }), err
}

// PortMTU is the MTU for a new port of b whose other end is to have mtu, in bytes: the same, with which the kernel keeps the
// MTU of the bridge at the least of all. One that IPv6 cannot be carried with would cost other pods the IPv6 addresses of
// the bridge, for good: where it has some the port has the bridge's, and only the other end is narrow.
func PortMTU(_ context.Context, ns *netns.NS, b State, mtu int) (int, error) {
	if mtu == 0 || mtu >= MinMTU6 || b.New {
		return mtu, ns.Check()
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return 0, err
	}
	have, err := c.Addrs(b.Index)
	if slices.ContainsFunc(have, func(a rtnl.Addr) bool {
		return a.Prefix.Addr().Is6() && (a.Proto == link.Proto || !a.Prefix.Addr().IsLinkLocalUnicast())
	}) {
		return b.MTU, err
	}
	return mtu, err
}

// SetPort puts the port, given by its index, into its VLANs, and out of all others unless it keeps the default one.
func SetPort(_ context.Context, ns *netns.NS, index int, p Port) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	if err := p.check(); err != nil || p.plain() {
		return err
	}
	var msgs []*rtnl.Msg
	if !p.KeepDefault {
		have, err := c.VLANs(index)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			msgs = append(msgs, rtnl.DelVLANs(index, false, have...))
		}
	}
	return c.Do(append(msgs, rtnl.AddVLANs(index, false, p.vlans()...))...)
}

// CheckPort fails if the port is not in its VLANs as [SetPort] left it, or is in others.
func CheckPort(_ context.Context, ns *netns.NS, index int, p Port) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	if err := p.check(); err != nil || p.plain() {
		return err
	}
	have, err := c.VLANs(index)
	if err != nil {
		return err
	}
	want := p.vlans()
	for _, v := range want {
		if !slices.Contains(have, v) {
			return fmt.Errorf("bridge port %s is not in VLAN %s as configured: it has %v", portName(c, index), v, have)
		}
	}
	if extra := len(have) - len(want); !p.KeepDefault && extra != 0 {
		return fmt.Errorf("bridge port %s is in %d VLANs more than configured: it has %v", portName(c, index), extra, have)
	}
	return nil
}

func portName(c *rtnl.Conn, index int) string {
	l, _ := c.LinkByIndex(index)
	return l.Name
}

// VLANGateway makes the device <bridge>.<vlan>, by which the node has a foot in one VLAN of the bridge, and returns its
// index and MAC. It is a veth pair, as the reference makes it. One that is there is used; if its other end is not on the
// bridge or not in the VLAN, because the bridge was made anew or whoever made the pair was killed, it is put there.
func VLANGateway(ctx context.Context, ns *netns.NS, b State, vlan uint16, alias string, keepDefault bool) (veth.End, error) {
	if vlan == 0 || vlan > MaxVLAN {
		return veth.End{}, fmt.Errorf("gateway of bridge %s in VLAN %d: want 1 to %d", b.Name, vlan, MaxVLAN)
	}
	name := VLANGatewayName(b.Name, vlan)
	c, err := rtnl.Open(ns)
	if err != nil {
		return veth.End{}, err
	}
	l, err := c.LinkByName(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = veth.CreateOn(ctx, veth.Pair{Host: veth.End{NS: ns, Name: link.HostName("", b.Name, name), MTU: b.MTU},
			Pod: veth.End{NS: ns, Name: name, MTU: b.MTU}, Alias: alias}, b.Index)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return veth.End{}, err
		}
		l, err = c.LinkByName(name)
	}
	if err != nil {
		return veth.End{}, err
	}
	if l.Kind == "veth" {
		err = joinVLAN(ctx, ns, c, l, b, Port{VLAN: vlan, KeepDefault: keepDefault})
	}
	if err == nil && !l.Up() { // set up last: one that is up is complete
		err = errors.Join(own(ns, name), c.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Up: true})))
	}
	return veth.End{NS: ns, Name: name, MAC: l.MAC, MTU: l.MTU, Index: l.Index}, err
}

// joinVLAN puts the other end of a gateway device where it belongs, if it is not.
func joinVLAN(ctx context.Context, ns *netns.NS, c *rtnl.Conn, gateway rtnl.Link, b State, want Port) error {
	port, err := c.LinkByIndex(gateway.Peer)
	if err != nil || port.Peer != gateway.Index {
		return rtnl.Except(err, fs.ErrNotExist) // it leads to another namespace: somebody else's
	}
	if port.Master != b.Index {
		if err := c.Do(rtnl.SetLink(rtnl.Set{Index: port.Index, Master: b.Index, Up: true})); err != nil {
			return err
		}
	}
	if CheckPort(ctx, ns, port.Index, want) == nil {
		return nil
	}
	return SetPort(ctx, ns, port.Index, want)
}

// VLANGatewayName is the name of that device.
func VLANGatewayName(bridge string, vlan uint16) string { return fmt.Sprintf("%s.%d", bridge, vlan) }
