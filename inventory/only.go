package inventory

import (
	"net/netip"
	"slices"
	"strings"
)

// Only is the part of the inventory that concerns one network, with the uplinks and what is in the way.
func (n *Node) Only(network string) *Node {
	o := *n
	o.Attachments = keep(n.Attachments, func(a Attachment) bool { return a.Network == network })
	uses := func(bridge string) bool {
		return bridge != "" && slices.ContainsFunc(o.Attachments, func(a Attachment) bool { return a.Bridge == bridge })
	}
	o.Devices = keep(n.Devices, func(d Device) bool { return slices.Contains(d.Networks, network) })
	o.Bridges = keep(n.Bridges, func(b Bridge) bool {
		return b.Network == network || uses(b.Name) ||
			slices.ContainsFunc(o.Devices, func(d Device) bool { return d.Bridge == b.Name })
	})
	o.Ports = keep(n.Ports, func(p Port) bool {
		return slices.ContainsFunc(o.Bridges, func(b Bridge) bool { return b.Name == p.Bridge })
	})
	o.Peers = keep(n.Peers, func(p Peer) bool { return p.Network == network })
	o.Routes = keep(n.Routes, func(r Route) bool { return r.Network == network })
	o.SNAT = keep(n.SNAT, func(s SNAT) bool { return s.Network == network })
	o.Forward = keep(n.Forward, func(f Forward) bool { return f.Network == network })
	o.Guards = keep(n.Guards, func(g Guard) bool { return g.Network == network })
	o.Rates = keep(n.Rates, func(r Rate) bool { return r.Network == network })
	o.HostPorts = keep(n.HostPorts, func(p HostPort) bool { return p.Network == network })
	o.Hidden = keep(n.Hidden, func(h Hidden) bool {
		return slices.ContainsFunc(o.Bridges, func(b Bridge) bool { return b.Name == h.Device }) ||
			slices.ContainsFunc(o.Devices, func(d Device) bool { return d.Name == h.Device })
	})
	o.Leases = keep(n.Leases, func(l Lease) bool { return l.Network == network })
	o.LeaseDirs = keep(n.LeaseDirs, func(d LeaseDir) bool { return d.Network == network })
	o.Records = keep(n.Records, func(d RecordDir) bool { return d.Network == network })
	o.State = keep(n.State, func(d StateDir) bool { return d.Network == network })
	return &o
}

// OnlyContainer is the part that concerns containers whose ID begins so: interfaces, leases, and what their networks have
// besides other pods.
func (n *Node) OnlyContainer(id string) *Node {
	return n.only(wanted{
		pod:   func(a Attachment) bool { return a.ContainerID != "" && strings.HasPrefix(a.ContainerID, id) },
		lease: func(l Lease) bool { return strings.HasPrefix(l.ContainerID, id) },
	})
}

// OnlyAddr is the part that concerns an address, of a pod here, of the node, or of a pod of another node.
func (n *Node) OnlyAddr(a netip.Addr) *Node {
	among := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
	}
	own := func(list []Addr) bool {
		return slices.ContainsFunc(list, func(x Addr) bool { return x.Prefix.Addr() == a })
	}
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return n.only(wanted{
		pod: func(x Attachment) bool {
			return slices.Contains(x.Leased, a) || own(x.Addrs) || x.Pod != nil && among(x.Pod.Addrs)
		},
		lease:  func(l Lease) bool { return l.Addr == a },
		bridge: func(b Bridge) bool { return own(b.Addrs) },
		device: func(d Device) bool { return own(d.Addrs) || slices.Contains(d.Local, a) },
		peer:   func(p Peer) bool { return p.Endpoint == a || within(p.Pods) },
		route:  func(r Route) bool { return r.Dst.Contains(a) },
	})
}

// wanted says what to keep; nothing of a kind without a function.
type wanted struct {
	pod    func(Attachment) bool
	lease  func(Lease) bool
	bridge func(Bridge) bool
	device func(Device) bool
	peer   func(Peer) bool
	route  func(Route) bool
}

// only keeps what is wanted, with the bridges and tunnels that it stands on and what its networks have besides pods.
func (n *Node) only(w wanted) *Node {
	o := *n
	o.Attachments, o.Leases = keep(n.Attachments, w.pod), keep(n.Leases, w.lease)
	o.Peers, o.Routes = keep(n.Peers, w.peer), keep(n.Routes, w.route)
	o.Devices = keep(n.Devices, func(d Device) bool {
		return w.device != nil && w.device(d) || slices.ContainsFunc(o.Peers, func(p Peer) bool { return p.Device == d.Name }) ||
			slices.ContainsFunc(o.Routes, func(r Route) bool { return r.Device == d.Name })
	})
	o.Bridges = keep(n.Bridges, func(b Bridge) bool {
		return w.bridge != nil && w.bridge(b) || slices.ContainsFunc(o.Attachments, func(a Attachment) bool { return a.Bridge == b.Name }) ||
			slices.ContainsFunc(o.Devices, func(d Device) bool { return d.Bridge == b.Name })
	})
	networks := map[string]bool{}
	for _, a := range o.Attachments {
		networks[a.Network] = true
	}
	for _, l := range o.Leases {
		networks[l.Network] = true
	}
	for _, p := range o.Peers {
		networks[p.Network] = true
	}
	delete(networks, "")
	o.Ports, o.Records = []Port{}, []RecordDir{}
	o.SNAT = keep(n.SNAT, func(s SNAT) bool { return networks[s.Network] })
	o.Forward = keep(n.Forward, func(f Forward) bool { return networks[f.Network] })
	o.Guards = keep(n.Guards, func(g Guard) bool {
		return slices.ContainsFunc(o.Attachments, func(a Attachment) bool { return a.HostEnd == g.HostEnd })
	})
	o.Rates = keep(n.Rates, func(r Rate) bool {
		return slices.ContainsFunc(o.Attachments, func(a Attachment) bool { return a.HostEnd == r.Device })
	})
	o.HostPorts = keep(n.HostPorts, func(p HostPort) bool {
		return slices.ContainsFunc(o.Attachments, func(a Attachment) bool { return a.ContainerID == p.ContainerID && a.Network == p.Network })
	})
	o.LeaseDirs = keep(n.LeaseDirs, func(d LeaseDir) bool { return networks[d.Network] })
	o.State = keep(n.State, func(d StateDir) bool { return networks[d.Network] })
	return &o
}

// Empty reports whether it has no interface, address, lease, route or peer.
func (n *Node) Empty() bool {
	return len(n.Bridges)+len(n.Attachments)+len(n.Devices)+len(n.Leases)+len(n.Routes)+len(n.Peers) == 0
}

func keep[T any](list []T, want func(T) bool) []T {
	out := []T{}
	for _, v := range list {
		if want != nil && want(v) {
			out = append(out, v)
		}
	}
	return out
}
