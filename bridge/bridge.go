//go:build linux

// Package bridge keeps a Linux bridge and its ports as they should be (ip-link(8), bridge(8)).
//
// A bridge that this package made is marked, see [Group]; one that was there before is used as it is: what it has is never
// taken away, and a property that it lacks is set only where that cannot disturb others, else it is an error.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// Group is the link group that marks the bridges and gateway devices of this library.
const Group = link.Group

// ErrNotBridge says that a device of the name exists and is of another kind.
var ErrNotBridge = errors.New("not a bridge")

// Bridge is a bridge as wanted. Zero fields are the kernel's choice.
type Bridge struct {
	Name          string
	MTU           int    // bytes, 68 to 65535; of a new bridge, one that is there keeps its own
	Alias         string // of a new bridge; at most 255 bytes
	Promisc       bool   // promiscuous mode on
	VLANFiltering bool   // ports see only frames of their VLANs
}

func (b Bridge) check() error {
	if err := rtnl.CheckName(b.Name); err != nil {
		return err
	}
	if err := rtnl.CheckAlias(b.Name, b.Alias); err != nil {
		return err
	}
	return rtnl.CheckMTU(b.Name, b.MTU)
}

// State is a bridge as it is.
type State struct {
	Name          string
	Index         int
	MAC           inet.MAC
	MTU           int // bytes
	Alias         string
	Up            bool
	Promisc       bool
	VLANFiltering bool
	Ours          bool // this library made it
	New           bool // this call of Ensure made it
}

// Ensure makes the bridge if it is not there, sets it up, and returns what it is. A new bridge has a MAC of its own that
// does not change with its ports, takes no router advertisements, and has a link-local address at once. A device of another
// kind is [ErrNotBridge].
func Ensure(ctx context.Context, ns *netns.NS, want Bridge) (State, error) {
	return EnsureFit(ctx, ns, want, nil)
}

// EnsureFit is [Ensure] that makes no bridge if unfit says why it could not serve; a bridge that is there it does not ask for.
func EnsureFit(ctx context.Context, ns *netns.NS, want Bridge, unfit func(context.Context) error) (State, error) {
	if err := want.check(); err != nil {
		return State{}, err
	}
	s, err := Get(ctx, ns, want.Name)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && unfit != nil {
		if why := unfit(ctx); why != nil {
			if s, err = Get(ctx, ns, want.Name); errors.Is(err, fs.ErrNotExist) {
				return State{}, why
			}
			missing = false // somebody else has made it, with what is in the way
		}
	}
	if missing {
		if err = create(ctx, ns, want); err == nil {
			s, err = Get(ctx, ns, want.Name)
			s.New = true
		}
	} else if err == nil && s.Ours && s.Alias == "" && want.Alias != "" {
		err = complete(ns, want) // whoever made it was killed
	}
	if err != nil {
		return s, err
	}
	if want.VLANFiltering && !s.VLANFiltering && !s.Ours {
		return s, fmt.Errorf("bridge %s has no VLAN filtering and was not made by cniblocks: switch it on with "+
			"'ip link set %s type bridge vlan_filtering 1' if its ports are ready for that", s.Name, s.Name)
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return s, err
	}
	var msgs []*rtnl.Msg
	if !s.Up || want.Promisc && !s.Promisc {
		msgs = append(msgs, rtnl.SetLink(rtnl.Set{Index: s.Index, Up: true, Promisc: want.Promisc}))
	}
	if want.VLANFiltering && !s.VLANFiltering {
		msgs = append(msgs, rtnl.SetVLANFiltering(s.Name))
	}
	if len(msgs) == 0 {
		return s, nil
	}
	if err := c.Do(msgs...); err != nil {
		return s, err
	}
	made := s.New
	s, err = Get(ctx, ns, want.Name)
	s.New = made
	return s, err
}

func create(ctx context.Context, ns *netns.NS, want Bridge) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b := rtnl.Bridge{Name: want.Name, MTU: want.MTU, VLANFiltering: want.VLANFiltering, Group: Group}
	b.MAC = rtnl.RandomMAC()
	if err := c.Do(rtnl.NewBridge(b)); err != nil {
		return rtnl.Except(err, fs.ErrExist) // another ADD was faster
	}
	return complete(ns, want)
}

// complete is what cannot be said in the message that makes the bridge. The alias comes last: without it the rest may be
// missing too.
func complete(ns *netns.NS, want Bridge) error {
	if err := own(ns, want.Name); err != nil || want.Alias == "" {
		return err
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	return rtnl.Except(c.Do(rtnl.SetLink(rtnl.Set{Name: want.Name, Alias: want.Alias})), fs.ErrNotExist)
}

// own keeps a device of ours from what it would learn or wait for: its routes do not come from a pod that sends router
// advertisements, and it can ask for neighbours at once, without duplicate address detection of its link-local address.
func own(ns *netns.NS, device string) error {
	conf := "net/ipv6/conf/" + device + "/"
	err := sysctl.Ensure(ns, sysctl.Var{Key: conf + "accept_ra", Value: "0"}, sysctl.Var{Key: conf + "accept_dad", Value: "0"})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// Delete removes a bridge; its ports stay, without a master. None is [io/fs.ErrNotExist], a device of another kind
// [ErrNotBridge].
func Delete(ctx context.Context, ns *netns.NS, name string) error {
	if _, err := Get(ctx, ns, name); err != nil {
		return err
	}
	return link.Delete(ctx, ns, name, "bridge")
}

// MinMTU6 is the least MTU, in bytes, of a device that bears IPv6 addresses (RFC 8200, section 5): below it the kernel drops
// them, and does not give them back.
const MinMTU6 = 1280

// ErrNarrow says that a bridge has too little an MTU to bear IPv6 addresses, and is not ours to widen.
var ErrNarrow = errors.New("too little for IPv6, and the bridge was not made by cniblocks")

// CheckWidth fails with [ErrNarrow].
func (s State) CheckWidth() error {
	if s.MTU >= MinMTU6 || s.Ours {
		return nil
	}
	return fmt.Errorf("%s has MTU %d, which is %w: raise it with 'ip link set %[1]s mtu %[4]d', or choose another bridge", s.Name, s.MTU, ErrNarrow, MinMTU6)
}

// Widen gives a device of ours, a bridge or the VLAN device of one, an MTU, in bytes, with which it can bear IPv6 addresses;
// 0 is that of Ethernet. One that is wide enough stays as it is.
// The kernel keeps the MTU of a bridge at the least of its ports', so that the host ends of pods that are too narrow get it
// too; the pods' ends keep theirs. Only where another port, or a person, makes the bridge narrow it is set for good.
func Widen(ctx context.Context, ns *netns.NS, device State, mtu int) error {
	if err := errors.Join(ns.Check(), device.CheckWidth()); err != nil || device.MTU >= MinMTU6 {
		return err
	}
	const ethernet = 1500
	mtu = cmp.Or(mtu, ethernet)
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(device.Name)
	if err != nil {
		return err
	}
	ends, err := c.Links("veth")
	if err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	for _, e := range ends {
		pod := e.Master == l.Index && strings.HasPrefix(e.Alias, link.Root)
		if e.MTU < MinMTU6 && (pod || l.Kind == "veth" && e.Index == l.Peer && e.Peer == l.Index) {
			msgs = append(msgs, rtnl.SetLink(rtnl.Set{Index: e.Index, MTU: mtu}))
		}
	}
	if err := errors.Join(ctx.Err(), c.Do(msgs...)); err != nil {
		return err
	}
	if l, err = c.LinkByName(device.Name); err == nil && l.MTU < MinMTU6 {
		err = c.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, MTU: mtu}))
	}
	return errors.Join(err, own(ns, device.Name)) // the kernel had taken IPv6 from it
}

// Get returns the bridge of that name. None is [io/fs.ErrNotExist], a device of another kind [ErrNotBridge].
func Get(_ context.Context, ns *netns.NS, name string) (State, error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return State{}, err
	}
	l, err := c.LinkByName(name)
	if err != nil {
		return State{}, err
	}
	if l.Kind != "bridge" {
		kind := l.Kind
		if kind == "" {
			kind = "network device"
		}
		return State{}, fmt.Errorf("%s is a %s, %w: choose another name for the bridge", name, kind, ErrNotBridge)
	}
	return State{Name: l.Name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, Alias: l.Alias, Up: l.Up(), Promisc: l.Flags&unix.IFF_PROMISC != 0,
		VLANFiltering: l.Bridge().VLANFiltering, Ours: l.Group == Group}, nil
}

// Check fails if the bridge is not there, is down, or lacks properties that are wanted, and names all of these.
func Check(ctx context.Context, ns *netns.NS, want Bridge) (State, error) {
	s, err := Get(ctx, ns, want.Name)
	if err != nil {
		return s, err
	}
	var wrong []error
	for _, c := range []struct {
		bad bool
		is  string
	}{{!s.Up, "is down"}, {want.VLANFiltering && !s.VLANFiltering, "does not filter VLANs"}, {want.Promisc && !s.Promisc, "is not in promiscuous mode"}} {
		if c.bad {
			wrong = append(wrong, fmt.Errorf("bridge %s %s", s.Name, c.is))
		}
	}
	return s, errors.Join(wrong...)
}
