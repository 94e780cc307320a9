//go:build linux

package link

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// Kind says what a link is: one of [Dummy], [IFB], [IPVLAN], [Macvlan], [Tap], [VLAN], [VRF], all of them comparable.
type Kind interface {
	Type() string   // as in ip-link(8), such as "macvlan"
	String() string // with what makes it one, such as "macvlan mode bridge"
	device() (rtnl.Kind, error)
}

// Dummy is a device that drops what is sent.
type Dummy struct{}

// Type is "dummy".
func (Dummy) Type() string { return "dummy" }

func (k Dummy) String() string             { return k.Type() }
func (k Dummy) device() (rtnl.Kind, error) { return rtnl.Plain(k.Type()), nil }

// IFB is a device to which packets of others are redirected, to be queued (Intermediate Functional Block).
type IFB struct{}

// Type is "ifb".
func (IFB) Type() string { return "ifb" }

func (k IFB) String() string             { return k.Type() }
func (k IFB) device() (rtnl.Kind, error) { return rtnl.Plain(k.Type()), nil }

// VRF is a device whose ports have a routing table of their own.
type VRF struct{ Table uint32 } // not 0

// Type is "vrf".
func (VRF) Type() string { return "vrf" }

func (k VRF) String() string { return "vrf table " + strconv.Itoa(int(k.Table)) }

func (k VRF) device() (rtnl.Kind, error) {
	if k.Table == 0 {
		return nil, fmt.Errorf("table 0: want the number of a routing table")
	}
	return rtnl.VRF(k), nil
}

// VLAN is what the lower device receives and sends with a tag (IEEE 802.1Q).
type VLAN struct{ ID uint16 } // 1 to 4094

// Type is "vlan".
func (VLAN) Type() string { return "vlan" }

func (k VLAN) String() string { return "vlan id " + strconv.Itoa(int(k.ID)) }

func (k VLAN) device() (rtnl.Kind, error) {
	if k.ID < 1 || k.ID > 4094 {
		return nil, fmt.Errorf("VLAN ID %d: want 1 to 4094", k.ID)
	}
	return rtnl.Dot1Q(k), nil
}

// Macvlan is a station of its own on the lower device, with a MAC address of its own.
type Macvlan struct {
	Mode       string // one of [MacvlanModes]; "" is the first
	BCQueueLen uint32 // packets to groups that may wait for the stations; 0 is the kernel's choice
}

// MacvlanModes are the modes of [Macvlan]: whether the stations of one lower device see each other.
var MacvlanModes = []string{"bridge", "private", "vepa", "passthru"}

var macvlanModes = [...]uint32{4, 1, 2, 8} // MACVLAN_MODE_*, in the order of MacvlanModes

// Type is "macvlan".
func (Macvlan) Type() string { return "macvlan" }

func (k Macvlan) String() string { return "macvlan mode " + cmp.Or(k.Mode, MacvlanModes[0]) }

func (k Macvlan) device() (rtnl.Kind, error) {
	i, err := mode(k.Mode, MacvlanModes)
	return rtnl.Macvlan{Mode: macvlanModes[i], BCQueueLen: k.BCQueueLen}, err
}

// IPVLAN has the MAC address of the lower device, and is told from it by its IP addresses.
type IPVLAN struct {
	Mode string // one of [IPVLANModes]; "" is the first
}

// IPVLANModes are the modes of [IPVLAN]: whether frames are switched, or packets routed, and filtered too.
var IPVLANModes = []string{"l2", "l3", "l3s"} // in the order of IPVLAN_MODE_*

// Type is "ipvlan".
func (IPVLAN) Type() string { return "ipvlan" }

func (k IPVLAN) String() string { return "ipvlan mode " + cmp.Or(k.Mode, IPVLANModes[0]) }

func (k IPVLAN) device() (rtnl.Kind, error) {
	i, err := mode(k.Mode, IPVLANModes)
	return rtnl.IPVLAN{Mode: uint16(i)}, err
}

func mode(s string, modes []string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if i := slices.Index(modes, s); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf(`mode %q: want "%s"`, s, strings.Join(modes, `", "`))
}

// Tap is a device whose frames a program reads and writes by /dev/net/tun. It stays without the program.
type Tap struct {
	Owner, Group ID // who may open it without CAP_NET_ADMIN
	MultiQueue   bool
}

// ID is a user's or a group's; the zero value is none.
type ID struct {
	Number uint32
	Valid  bool
}

func (id ID) or(none uint32) uint32 {
	if id.Valid {
		return id.Number
	}
	return none
}

// Type is "tun".
func (Tap) Type() string { return "tun" }

func (k Tap) String() string {
	s := "tun type tap"
	for _, id := range []struct {
		name string
		ID
	}{{"user", k.Owner}, {"group", k.Group}} {
		if id.Valid {
			s += " " + id.name + " " + strconv.FormatUint(uint64(id.Number), 10)
		}
	}
	if k.MultiQueue {
		s += " multi_queue"
	}
	return s
}

func (k Tap) device() (rtnl.Kind, error) {
	return rtnl.Tap{Owner: k.Owner.or(rtnl.Nobody), Group: k.Group.or(rtnl.Nobody), MultiQueue: k.MultiQueue}, nil
}

// kindOf is the kind of a link as the kernel has it; nil for one that [Create] does not make.
func kindOf(d rtnl.Kind) Kind {
	id := func(n uint32) ID {
		if n == rtnl.Nobody {
			return ID{}
		}
		return ID{Number: n, Valid: true}
	}
	switch d := d.(type) {
	case rtnl.Plain:
		if d == "ifb" {
			return IFB{}
		}
		return Dummy{}
	case rtnl.VRF:
		return VRF(d)
	case rtnl.Dot1Q:
		return VLAN(d)
	case rtnl.Macvlan:
		k := Macvlan{BCQueueLen: d.BCQueueLen, Mode: "source"}
		if i := slices.Index(macvlanModes[:], d.Mode); i >= 0 {
			k.Mode = MacvlanModes[i]
		}
		return k
	case rtnl.IPVLAN:
		return IPVLAN{Mode: IPVLANModes[min(int(d.Mode), len(IPVLANModes)-1)]}
	case rtnl.Tap:
		return Tap{Owner: id(d.Owner), Group: id(d.Group), MultiQueue: d.MultiQueue}
	}
	return nil
}

// Is reports whether the link is what [Create] makes of a kind.
func (l Link) Is(k Kind) bool {
	return l.Details != nil && k != nil && l.Details.String() == k.String()
}
