// Package inventory finds out what stands on a node for its pods, and whose it is.
//
// [Read] looks at one network namespace and at the directories in which plugins keep leases and state, and changes
// nothing, not even where a plugin would mend what it reads. What this library made is known by its marks: link aliases,
// the link group of its bridges, the protocol number of its routes and addresses, the names of its firewall objects. What
// the reference plugins made is known where a lease names it. All else is foreign.
//
// A [Node] is data, with JSON names that are an interface for other programs: fields are added, not renamed.
//
// Out of scope: judging whether it is all as a configuration wants it, which is CHECK; printing.
package inventory

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/shape"
)

// Owner says who made an object.
type Owner string

// The owners.
const (
	Ours      Owner = "ours"
	Reference Owner = "reference" // a plugin of containernetworking/plugins, or one that keeps leases as they do
	Foreign   Owner = "foreign"   // another program, or a person
)

// Node is what was found. Lists are sorted; what could not be read is in Unread. It is large since it is data: a list for each
// kind of thing on a node.
type Node struct {
	Namespace   string       `json:"namespace"` // path that it was opened by
	ForwardIPv4 bool         `json:"forwardIPv4"`
	ForwardIPv6 bool         `json:"forwardIPv6"`
	Uplinks     []Uplink     `json:"uplinks"`
	Bridges     []Bridge     `json:"bridges"`
	Attachments []Attachment `json:"attachments"`
	Ports       []Port       `json:"ports"`
	Devices     []Device     `json:"devices"`
	Peers       []Peer       `json:"peers"`
	Routes      []Route      `json:"routes"`
	SNAT        []SNAT       `json:"snat"`
	Forward     []Forward    `json:"forward"`
	Guards      []Guard      `json:"guards"`
	HostPorts   []HostPort   `json:"hostPorts"`
	Hidden      []Hidden     `json:"hidden"`
	Rates       []Rate       `json:"rates"`
	GuardTable  bool         `json:"guardTable,omitempty"` // the table of our guards is there, with or without entries
	Leases      []Lease      `json:"leases"`
	LeaseDirs   []LeaseDir   `json:"leaseDirs"`
	Records     []RecordDir  `json:"records"`
	State       []StateDir   `json:"state"`
	Obstacles   []Obstacle   `json:"obstacles"`
	Unread      []string     `json:"unread,omitempty"` // what could not be read, and why

	EmptyIndexes []string `json:"-"` // paths of directories for indexes of leases that hold none
}

// Uplink is a device by which packets leave the node.
type Uplink struct {
	Name    string         `json:"name"`
	Addrs   []netip.Prefix `json:"addrs"`
	Default bool           `json:"default"` // it has a default route
	Via     []netip.Addr   `json:"via"`     // the routers of that; none where the device itself leads everywhere
}

// Addr is an address of the node.
type Addr struct {
	Prefix netip.Prefix `json:"prefix"`
	Owner  Owner        `json:"owner"`
}

// Bridge is a bridge.
type Bridge struct {
	Name          string `json:"name"`
	Index         int    `json:"index"`
	Owner         Owner  `json:"owner"`
	Network       string `json:"network,omitempty"` // for which it was made, if it is ours
	Guess         string `json:"guess,omitempty"`   // whose it looks like, by its name
	Up            bool   `json:"up"`
	MTU           int    `json:"mtu"` // bytes
	VLANFiltering bool   `json:"vlanFiltering,omitempty"`
	Addrs         []Addr `json:"addrs"`
}

// Attachment is the host end of a veth pair whose other end is in another namespace.
type Attachment struct {
	HostEnd     string       `json:"hostEnd"`
	Index       int          `json:"index"`
	Owner       Owner        `json:"owner"`
	Network     string       `json:"network,omitempty"`
	ContainerID string       `json:"containerID,omitempty"`
	IfName      string       `json:"ifname,omitempty"`
	Bridge      string       `json:"bridge,omitempty"` // that it is a port of
	Up          bool         `json:"up"`
	MTU         int          `json:"mtu"`             // bytes
	Leased      []netip.Addr `json:"leased"`          // by its owner, in the network's lease directory
	Pod         *PodEnd      `json:"pod,omitempty"`   // nil where the namespace was not found
	Addrs       []Addr       `json:"addrs,omitempty"` // of the host end itself
}

// PodEnd is the other end.
type PodEnd struct {
	Namespace string         `json:"namespace"`         // a path that opens it
	Process   string         `json:"process,omitempty"` // name of one that runs in it
	Name      string         `json:"name"`
	MAC       string         `json:"mac"`
	MTU       int            `json:"mtu"` // bytes
	Up        bool           `json:"up"`
	Addrs     []netip.Prefix `json:"addrs"` // without link-local ones
}

// Port is any other port of a bridge.
type Port struct {
	Name   string `json:"name"`
	Index  int    `json:"index"`
	Kind   string `json:"kind"` // as in ip-link(8); empty for hardware
	Bridge string `json:"bridge"`
	Owner  Owner  `json:"owner"`
}

// Device is a tunnel, or the device by which the node has a foot in a VLAN of a bridge.
type Device struct {
	Name     string   `json:"name"`
	Index    int      `json:"index"`
	Kind     string   `json:"kind"`
	Owner    Owner    `json:"owner"`
	Networks []string `json:"networks,omitempty"` // whose it is, if it is ours
	Bridge   string   `json:"bridge,omitempty"`   // that it is a port of, or whose VLAN it leads to
	VLAN     int      `json:"vlan,omitempty"`     // that the device leads to
	Far      int      `json:"-"`                  // index of the port behind a VLAN's device
	Detail   string   `json:"detail,omitempty"`   // VNI and port of a tunnel, or the like
	Guess    string   `json:"guess,omitempty"`
	Up       bool     `json:"up"`
	MTU      int      `json:"mtu"` // bytes
	Addrs    []Addr   `json:"addrs"`

	Local []netip.Addr `json:"local,omitempty"` // from which a tunnel sends, where it or its routes say so
	Over  []string     `json:"over,omitempty"`  // the devices that a tunnel sends by: a lower one that it names, else those with its Local
}

// Peer is another node, as the kernel has it: where packets for its pods are sent.
type Peer struct {
	Network  string         `json:"network,omitempty"` // as far as the device or the network's prefixes tell
	Device   string         `json:"device"`            // the tunnel, or the uplink where a plain route leads there
	Endpoint netip.Addr     `json:"endpoint,omitzero"` // not set: a peer of WireGuard that has not called yet
	Pods     []netip.Prefix `json:"pods"`              // its ranges; none where one subnet spans the nodes
}

// Route is a route of ours.
type Route struct {
	Dst     netip.Prefix `json:"dst"`
	Via     netip.Addr   `json:"via,omitzero"`
	Device  string       `json:"device,omitempty"`
	Src     netip.Addr   `json:"src,omitzero"`
	Metric  uint32       `json:"metric,omitempty"`
	Table   uint32       `json:"table"`
	Encap   string       `json:"encap,omitempty"`   // outer header that the route gives
	Network string       `json:"network,omitempty"` // as far as the device or the network's prefixes tell
}

// SNAT is a policy by which pods' packets leave with the node's address.
type SNAT struct {
	Backend string         `json:"backend"` // "nftables" or "iptables"
	Owner   Owner          `json:"owner"`
	Network string         `json:"network,omitempty"`
	Sources []Span         `json:"sources"`
	Pods    []netip.Addr   `json:"pods,omitempty"`
	Except  []netip.Prefix `json:"except"`
	Broken  bool           `json:"broken,omitempty"`  // another program took the rule away
	Entries int            `json:"entries,omitempty"` // of the reference, which has some for each pod: how many
}

// Span is the addresses from First to Last, both included.
type Span struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// Forward is a network's passage through a FORWARD policy that drops.
type Forward struct {
	Network string `json:"network"`
	Table   string `json:"table"` // "ip filter", "ip6 filter", and whether it is a legacy one
}

// Guard is an entry by which a pod is held to its own MAC address (macspoofchk).
type Guard struct {
	Owner   Owner  `json:"owner"`
	Network string `json:"network,omitempty"`
	HostEnd string `json:"hostEnd,omitempty"`
	Entry   string `json:"entry"` // the MAC that is allowed, or the chain of the reference
}

// Rate is the limits of a device, or a device of kind ifb that no other one leads to any more.
type Rate struct {
	Owner   Owner  `json:"owner"`
	Network string `json:"network,omitempty"`
	Device  string `json:"device,omitempty"` // the host end
	Helper  string `json:"helper,omitempty"` // the device of kind ifb
	shape.Limits
}

// HostPort is a port of the node that leads to a pod. It is ours.
type HostPort struct {
	Backend     string         `json:"backend"` // "nftables" or "iptables"
	Network     string         `json:"network,omitempty"`
	ContainerID string         `json:"containerID,omitempty"`
	IfName      string         `json:"ifname,omitempty"`
	Protocol    string         `json:"protocol"`
	Host        netip.AddrPort `json:"host"` // an unspecified address is every address of the node in its family
	Pod         netip.AddrPort `json:"pod"`
}

// Hidden is a gateway outside of its subnet, for which the node answers by ARP on its device alone. It is ours.
type Hidden struct {
	Addr   netip.Addr `json:"addr"`
	Device string     `json:"device"`
}

// Lease is an address that is taken.
type Lease struct {
	Dir         string     `json:"dir"`
	Network     string     `json:"network"`
	Addr        netip.Addr `json:"addr"`
	ContainerID string     `json:"containerID"`
	IfName      string     `json:"ifname,omitempty"` // of old leases not known
	InUse       bool       `json:"inUse"`            // its owner has an interface here
}

// LeaseDir is the directory of a network's leases.
type LeaseDir struct {
	DataDir string `json:"dataDir"`
	Network string `json:"network"`
	Owner   Owner  `json:"owner"`  // ours if we keep an index for it
	Leases  int    `json:"leases"` // how many
	Exists  bool   `json:"exists"` // false: only our index of it is left
}

// RecordDir is where the flannel plugin keeps what it asked its delegate for each attachment of a network. It is ours.
type RecordDir struct {
	DataDir string `json:"dataDir"`
	Path    string `json:"path"`
	Network string `json:"network"`
	Records int    `json:"records"` // how many
}

// StateDir is what plugins and agent remember of a network until the next boot.
type StateDir struct {
	Path     string         `json:"path"`
	Network  string         `json:"network"`
	Here     bool           `json:"here"`               // it says that it is about this namespace, in this boot
	Node     string         `json:"node,omitempty"`     // which peer of the network this node is
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // of the network
}

// Obstacle is something of another program that keeps pods' packets from getting through, or may.
type Obstacle struct {
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// Networks are the names of all networks that left a trace, sorted.
func (n *Node) Networks() []string {
	names := n.OurNetworks()
	for _, a := range n.Attachments {
		names = append(names, a.Network)
	}
	for _, d := range n.LeaseDirs {
		names = append(names, d.Network)
	}
	for _, d := range n.Records {
		names = append(names, d.Network)
	}
	for _, d := range n.State {
		names = append(names, d.Network)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// OurNetworks are those that have something of ours in the namespace itself, sorted: a directory counts only if it says
// that it is about this namespace.
func (n *Node) OurNetworks() []string {
	names := map[string]bool{}
	for _, b := range n.Bridges {
		names[b.Network] = b.Owner == Ours || names[b.Network]
	}
	for _, a := range n.Attachments {
		names[a.Network] = a.Owner == Ours || names[a.Network]
	}
	for _, d := range n.Devices {
		for _, network := range d.Networks {
			names[network] = true
		}
	}
	for _, s := range n.SNAT {
		names[s.Network] = s.Owner == Ours || names[s.Network]
	}
	for _, f := range n.Forward {
		names[f.Network] = true
	}
	for _, g := range n.Guards {
		names[g.Network] = g.Owner == Ours || names[g.Network]
	}
	for _, r := range n.Rates {
		names[r.Network] = r.Owner == Ours || names[r.Network]
	}
	for _, p := range n.HostPorts {
		names[p.Network] = true
	}
	for _, d := range n.State {
		names[d.Network] = d.Here || names[d.Network]
	}
	maps.DeleteFunc(names, func(name string, ours bool) bool { return name == "" || !ours })
	return slices.Sorted(maps.Keys(names))
}
