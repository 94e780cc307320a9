package inventory

import "slices"

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
	o.Routes = keep(n.Routes, func(r Route) bool { return r.Network == network })
	o.SNAT = keep(n.SNAT, func(s SNAT) bool { return s.Network == network })
	o.Forward = keep(n.Forward, func(f Forward) bool { return f.Network == network })
	o.Guards = keep(n.Guards, func(g Guard) bool { return g.Network == network })
	o.Leases = keep(n.Leases, func(l Lease) bool { return l.Network == network })
	o.LeaseDirs = keep(n.LeaseDirs, func(d LeaseDir) bool { return d.Network == network })
	o.Records = keep(n.Records, func(d RecordDir) bool { return d.Network == network })
	o.State = keep(n.State, func(d StateDir) bool { return d.Network == network })
	return &o
}

func keep[T any](list []T, want func(T) bool) []T {
	out := []T{}
	for _, v := range list {
		if want(v) {
			out = append(out, v)
		}
	}
	return out
}
