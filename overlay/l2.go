//go:build linux

package overlay

import (
	"errors"
	"fmt"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
)

// L2 lets one subnet span all nodes: tunnels become ports of a bridge. The zero value routes instead.
type L2 struct {
	Bridge string // its name; it must be there before Ensure, else that is [io/fs.ErrNotExist]

	// AllowUplink permits a bridge that has a physical port, or a tunnel that is not this network's. Both can form a
	// loop, which only a spanning tree or great care prevents.
	AllowUplink bool

	// NeighSuppress keeps questions for a neighbour (ARP, RFC 826; RFC 4861) out of the tunnels where this node knows the
	// answer: those for its own addresses, and for addresses in the bridge's neighbour table, which the bridge answers
	// itself. Announcements that nobody asked for stay on this node too, so it is for networks in which every address has
	// the MAC that derives from it, and none moves to another MAC.
	NeighSuppress bool
}

// Keys of the encapsulations that carry Ethernet.
var (
	keyL2          = &Key{Name: "l2", Usage: "one subnet spans all nodes", Value: func(c *Config) any { return &c.L2 }}
	keyAllowUplink = &Key{Name: "allowUplink", with: "l2", Usage: "with l2: the bridge may have another way to other machines",
		Value: func(c *Config) any { return &c.AllowUplink }}
	keyNeighSuppress = &Key{Name: "neighSuppress", with: "l2", Usage: "with l2: keep ARP out of the tunnels where this node knows the answer",
		Value: func(c *Config) any { return &c.NeighSuppress }}
)

func (c *Config) l2() L2 {
	if !c.L2 {
		return L2{}
	}
	return L2{Bridge: c.Bridge, AllowUplink: c.AllowUplink, NeighSuppress: c.NeighSuppress}
}

func (c *Config) l2Refusal() error {
	switch {
	case c.AllowUplink && !c.L2:
		return errors.New("\"allowUplink\" without \"l2\": no tunnel is on a bridge; leave it out")
	case c.NeighSuppress && !c.L2:
		return errors.New("\"neighSuppress\" without \"l2\": no tunnel is on a bridge; leave it out")
	case c.NeighSuppress && c.AllowUplink:
		return errors.New("\"neighSuppress\" with \"allowUplink\": the MACs of what is behind the uplink do not derive from addresses, and may change; leave one of them out")
	}
	return nil
}

func (l L2) on() bool { return l.Bridge != "" }

func (l L2) check() error {
	if len(l.Bridge) > 15 {
		return fmt.Errorf("bridge %q: a name has at most 15 bytes", l.Bridge)
	}
	return (&Config{L2: l.on(), Bridge: l.Bridge, AllowUplink: l.AllowUplink, NeighSuppress: l.NeighSuppress}).l2Refusal()
}

// port is how the tunnels are ports of the bridge, beside what the encapsulation needs.
func (l L2) port(more ...rtnl.PortFlag) []rtnl.PortFlag {
	return append(more, rtnl.PortFlag{Attr: rtnl.NeighSuppress, On: l.NeighSuppress})
}

// mayJoin fails if the device on the bridge could close a loop.
func (l L2) mayJoin(s *site, devices ...string) error {
	links, err := s.kernel.Links("")
	if err != nil {
		return err
	}
	bridge := 0
	for _, b := range links {
		if b.Name == l.Bridge {
			if b.Kind != "bridge" {
				return fmt.Errorf("%s is of kind %q, not a bridge: choose another name for the bridge", b.Name, b.Kind)
			}
			bridge = b.Index
		}
	}
	if bridge == 0 {
		_, err := s.kernel.LinkByName(l.Bridge)
		return fmt.Errorf("the tunnels of network %q are to be ports of bridge %s: %w", s.o.Network, l.Bridge, err)
	}
	if l.AllowUplink {
		return nil
	}
	for _, p := range links {
		if p.Master != bridge || s.o.isOurs(p) {
			continue
		}
		if p.Kind == "" || isTunnel(p) || p.Kind == "vlan" || p.Kind == "bond" || p.Kind == "team" || p.Kind == "macvlan" {
			return fmt.Errorf("bridge %s has the port %s (%s), another way to other machines: two of them can form a loop; "+
				"take it off the bridge, or state \"allowUplink\" if nothing can come around", l.Bridge, p.Name, kindOf(p))
		}
	}
	return nil
}

func isTunnel(l rtnl.Link) bool {
	switch l.Kind {
	case "vxlan", "geneve", "gretap", "ip6gretap", "openvswitch", "bareudp":
		return true
	}
	return false
}
