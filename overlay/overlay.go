//go:build linux

package overlay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

// Proto is the protocol number that marks our routes, neighbour entries and addresses.
const Proto = 117

// DefaultStateDir is where a node remembers, until the next boot, what it has applied.
const DefaultStateDir = node.DefaultStateDir

// MinMTUv6 is the smallest MTU in bytes that IPv6 allows (RFC 8200, section 5).
const MinMTUv6 = 1280

// Network carries pod traffic between nodes. Its methods may be called from several goroutines.
type Network interface {
	// Ensure makes this node's devices and addresses as they should be and returns what the other nodes must know.
	Ensure(ctx context.Context) (Self, error)

	// Set makes the kernel hold the state for these peers and no others; this node may be among them and is left out.
	// The same list twice writes nothing. What is new comes before the old goes. A peer that cannot be served is skipped,
	// and everything else is done: the error then consists of [Refused] alone, see [OnlyRefused].
	Set(ctx context.Context, peers []peer.Peer) error

	// Want takes the list as Set does, for Repair and Check, without a look at the kernel.
	Want(peers []peer.Peer)

	// Repair compares the kernel with the last list and mends what differs. Without a list it mends the devices alone.
	Repair(ctx context.Context) error

	// Check reports how the kernel differs from the last list, nil if it does not. It writes nothing.
	Check(ctx context.Context) error

	// MTU is how long a pod's packet to the peer may be, in bytes; for the zero Peer, how long to any peer of the last
	// list: what pods' interfaces get. 0 is not known, which it is before Ensure.
	MTU(p peer.Peer) int

	// Close removes everything of this network from the kernel. What must survive, such as a private key, stays on disk.
	Close(ctx context.Context) error
}

// Encap is an encapsulation: one of the types of this package. They are comparable.
type Encap interface {
	Name() string // as in configurations: "vxlan"
	driver(o *Options) (driver, error)
}

// Options are what all encapsulations share. NS, Network and Node are needed.
type Options struct {
	NS      *netns.NS // of the node
	Network string    // its name

	// Node is this node: its name, its ranges, its addresses on the underlay. A MAC, a port or a VNI that it states is
	// what others were told, and wins over anything else.
	Node peer.Peer

	// Prefixes hold the ranges of all peers. They tell routes of this network from those of another one where they share
	// a device or have none. Empty: all routes of ours are of this network.
	Prefixes []netip.Prefix

	Families []inet.Family // of pods that are carried; empty: both
	Underlay inet.Family   // to be used alone; 0: IPv4 where both ends have it, else IPv6

	Table  uint32 // of the routes; 0: main
	Metric uint32 // where the metrics of the routes begin, see metric; usually 0
	MTU    int    // bytes, for all peers; 0: computed for each path
	Device string // name of the device; "": cb-<encap> and a hash of Network. Two nodes with one Network must state it.

	// Adopt takes what another program made for the same purpose, as flannel does: a device of the wanted name and
	// parameters gets this network's alias, and what is on it becomes ours; so do routes that are statically set
	// (protocols boot and static) to ranges within Prefixes, over that device or through a router. What is right stays
	// in place.
	Adopt bool

	// StateDir holds a directory for each network, with its lock and stamp; "": [DefaultStateDir].
	StateDir string
}

// Self is what a node's own end has become.
type Self struct {
	peer.Reach              // to be published
	Addrs      []netip.Addr // of the node in the overlay
	Devices    []string     // their names
	MTU        int          // bytes, for pods, as far as known before the peers are
}

// Refused is a peer, or a part of one, that was skipped.
type Refused struct {
	Peer string // its name
	Err  error  // why, and what to do
}

func (r *Refused) Error() string { return fmt.Sprintf("peer %q: %v", r.Peer, r.Err) }

// Unwrap is the reason.
func (r *Refused) Unwrap() error { return r.Err }

// OnlyRefused returns the refusals that err consists of. It is nil where err is, or holds anything else.
func OnlyRefused(err error) []*Refused {
	switch e := err.(type) { //nolint:errorlint // a wrapped refusal is not one alone
	case nil:
		return nil
	case *Refused:
		return []*Refused{e}
	case interface{ Unwrap() []error }:
		var all []*Refused
		for _, inner := range e.Unwrap() {
			r := OnlyRefused(inner)
			if r == nil {
				return nil
			}
			all = append(all, r...)
		}
		return all
	}
	return nil
}

// New makes a node of an overlay network. It validates, NS and the encapsulation too, which may not be nil, and touches nothing.
func New(o Options, e Encap) (*Node, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("overlay: network %q has no encapsulation: want one such as VXLAN{}", o.Network)
	}
	o.Node.Pods = slices.Clone(o.Node.Pods)
	o.Prefixes, o.Families = slices.Clone(o.Prefixes), slices.Clone(o.Families)
	if o.Table == 0 {
		o.Table = mainTable
	}
	if o.StateDir == "" {
		o.StateDir = DefaultStateDir
	}
	n := &Node{encap: e, site: site{o: &o, members: members{self: o.Node.Name}}, state: stateDir{root: o.StateDir, network: o.Network, stamp: "peers.stamp"}}
	d, err := e.driver(&o)
	if err != nil {
		return nil, fmt.Errorf("%s network %q: %w", e.Name(), o.Network, err)
	}
	n.site.d = d
	if d.layer() == 0 {
		n.state.stamp = "host-gw.stamp" // an overlay of the same network may stand above
	}
	for _, a := range o.Node.NodeAddrs() {
		n.site.src[b2i(a.Is6())] = a
	}
	n.reset()
	return n, nil
}

func (o *Options) check() error {
	if err := o.NS.Check(); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	switch {
	case o.Network == "" || o.Network == "." || o.Network == ".." || len(o.Network) > 255 || !plainName(o.Network):
		return fmt.Errorf("name of the network %q: want letters, digits, dot, dash and underscore, at most 255", o.Network)
	case o.Node.Name == "":
		return fmt.Errorf("network %q: this node has no name", o.Network)
	case !o.Node.V4.Addr.IsValid() && !o.Node.V6.Addr.IsValid():
		return fmt.Errorf("network %q: this node, %q, has no endpoint: state its address on the underlay", o.Network, o.Node.Name)
	case o.Underlay != 0 && !o.Node.Endpoint(o.Underlay).Addr.IsValid():
		return fmt.Errorf("network %q: the underlay is to be %s, and this node, %q, has no endpoint of that family", o.Network, o.Underlay, o.Node.Name)
	case o.MTU != 0 && (o.MTU < 68 || o.MTU > 65535):
		return fmt.Errorf("mtu %d: want 68 to 65535 bytes, or 0 for the one of the path", o.MTU)
	}
	if o.Device != "" {
		if err := rtnl.CheckName(o.Device); err != nil {
			return fmt.Errorf("device: %w", err)
		}
	}
	if o.MTU != 0 && o.MTU < MinMTUv6 && len(o.Node.PodsOf(inet.IPv6)) > 0 {
		return fmt.Errorf("mtu %d: IPv6 needs %d bytes (RFC 8200), and this node has the IPv6 range %s", o.MTU, MinMTUv6, o.Node.PodsOf(inet.IPv6)[0])
	}
	return nil
}

func plainName(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// carries reports whether pods of the family are served.
func (o *Options) carries(f inet.Family) bool {
	return len(o.Families) == 0 || slices.Contains(o.Families, f)
}

// families are those of the underlay that this node has.
func (o *Options) families() (all []inet.Family) {
	for _, f := range inet.Families {
		if (o.Underlay == 0 || o.Underlay == f) && o.Node.Endpoint(f).Addr.IsValid() {
			all = append(all, f)
		}
	}
	return all
}

// holds reports whether an address or range may be of this network.
func (o *Options) holds(p netip.Prefix) bool {
	return len(o.Prefixes) == 0 || slices.ContainsFunc(o.Prefixes, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}

// ends are both ends of the tunnel to a peer, over the first family that both have.
func (o *Options) ends(p *peer.Peer) (own, remote peer.Endpoint, err error) {
	for _, f := range inet.Families {
		if o.Underlay != 0 && o.Underlay != f {
			continue
		}
		own, remote = o.Node.Endpoint(f), p.Endpoint(f)
		if own.Addr.IsValid() && remote.Addr.IsValid() {
			return own, remote, nil
		}
	}
	return own, remote, fmt.Errorf("no family is common to its endpoint (%s) and this node's (%s): state one more address of either",
		endpoints(p, 0), endpoints(&o.Node, o.Underlay))
}

func endpoints(p *peer.Peer, only inet.Family) string {
	s := ""
	for _, f := range inet.Families {
		if a := p.Endpoint(f).Addr; a.IsValid() && (only == 0 || only == f) {
			if s != "" {
				s += ", "
			}
			s += a.String()
		}
	}
	if s == "" {
		return "none"
	}
	return s
}
