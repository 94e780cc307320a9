//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/internal/rtnl"
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

// SetPort puts the port, given by its index, into its VLANs.
func SetPort(_ context.Context, ns *netns.NS, index int, p Port) error {
	if p.plain() {
		return nil
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	if !p.KeepDefault {
		all, err := c.VLANs()
		if err != nil {
			return err
		}
		for _, v := range all[index] {
			msgs = append(msgs, rtnl.DelVLANs(index, false, rtnl.VLAN{ID: v.ID}))
		}
	}
	return c.Do(append(msgs, rtnl.AddVLANs(index, false, p.vlans()...))...)
}

// CheckPort fails if the port is not in its VLANs as [SetPort] left it.
func CheckPort(_ context.Context, ns *netns.NS, index int, p Port) error {
	if p.plain() {
		return nil
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	all, err := c.VLANs()
	if err != nil {
		return err
	}
	for _, v := range p.vlans() {
		if !slices.Contains(all[index], v) {
			return fmt.Errorf("bridge port %d is not in VLAN %d as configured: it has %v", index, v.ID, all[index])
		}
	}
	return nil
}

// VLANGateway makes the device <bridge>.<vlan>, by which the node has a foot in one VLAN of the bridge, and returns its
// index and MAC. It is a veth pair, as the reference makes it; one that is there is used.
func VLANGateway(ctx context.Context, ns *netns.NS, b State, vlan uint16, alias string, keepDefault bool) (veth.End, error) {
	name := VLANGatewayName(b.Name, vlan)
	c, err := rtnl.Open(ns)
	if err != nil {
		return veth.End{}, err
	}
	l, err := c.LinkByName(name)
	if errors.Is(err, fs.ErrNotExist) {
		p := veth.Pair{Host: veth.End{NS: ns, Name: veth.HostName("", b.Name, name), MTU: b.MTU},
			Pod: veth.End{NS: ns, Name: name, MTU: b.MTU}, Alias: alias}
		p, err = veth.CreateOn(ctx, p, b.Index)
		if err == nil {
			err = errors.Join(SetPort(ctx, ns, p.Host.Index, Port{VLAN: vlan, KeepDefault: keepDefault}), own(ns, name))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return veth.End{}, err
		}
		l, err = c.LinkByName(name)
	}
	if err != nil {
		return veth.End{}, err
	}
	if !l.Up() {
		err = c.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Up: true}))
	}
	return veth.End{NS: ns, Name: name, MAC: l.MAC, MTU: l.MTU, Index: l.Index}, err
}

// VLANGatewayName is the name of that device.
func VLANGatewayName(bridge string, vlan uint16) string { return fmt.Sprintf("%s.%d", bridge, vlan) }
