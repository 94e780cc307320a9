//go:build linux

package inventory

import (
	"context"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// readAttachments finds the pairs that lead to other namespaces, and looks into those that it can find.
func (r *reader) readAttachments(ctx context.Context) error {
	ends, err := r.podEnds(ctx)
	for _, l := range r.links {
		m, marked := r.mark(l.Alias)
		marked = marked && m.attachment()
		pod, leads := ends[l.Index]
		if l.Kind != "veth" || !marked && !leads {
			continue
		}
		a := Attachment{HostEnd: l.Name, Index: l.Index, Owner: Foreign, Bridge: r.link(l.Master).Name, Up: l.Up(), MTU: l.MTU,
			Pod: pod, Leased: []netip.Addr{}, Addrs: r.addrsOf(l.Index)}
		if marked {
			a.Owner, a.Network, a.ContainerID, a.IfName = Ours, m.network, m.container, m.name
		} else {
			r.adopt(&a)
		}
		r.lease(&a)
		r.n.Attachments = append(r.n.Attachments, a)
	}
	return err
}

// adopt finds out by the leases whether an interface without our mark is one of the reference plugins.
func (r *reader) adopt(a *Attachment) {
	if a.Pod == nil {
		return
	}
	a.IfName = a.Pod.Name
	for _, l := range r.n.Leases {
		has := slices.ContainsFunc(a.Pod.Addrs, func(p netip.Prefix) bool { return p.Addr() == l.Addr })
		if has && (l.IfName == "" || l.IfName == a.Pod.Name) {
			a.Owner, a.Network, a.ContainerID = Reference, l.Network, l.ContainerID
			return
		}
	}
}

// lease connects an attachment with its leases.
func (r *reader) lease(a *Attachment) {
	if a.Owner == Foreign {
		return
	}
	for i := range r.n.Leases {
		l := &r.n.Leases[i]
		if l.Network == a.Network && l.ContainerID == a.ContainerID && (l.IfName == a.IfName || l.IfName == "") {
			l.InUse = true
			a.Leased = append(a.Leased, l.Addr)
		}
	}
	slices.SortFunc(a.Leased, netip.Addr.Compare)
}

// podEnds are the other ends of this namespace's pairs, by the index of the host end. One whose namespace cannot be found
// or opened is nil.
func (r *reader) podEnds(ctx context.Context) (map[int]*PodEnd, error) {
	ends := map[int]*PodEnd{}
	c, err := openIDs(r.NS)
	if err != nil {
		return ends, err
	}
	defer c.close()
	leads, err := c.links()
	if err != nil {
		return ends, err
	}
	wanted := map[int32][]rtnl.Link{}
	for _, l := range r.links {
		if id, ok := leads[l.Index]; ok && l.Kind == "veth" {
			wanted[id] = append(wanted[id], l)
			ends[l.Index] = nil
		}
	}
	for p := range places() {
		if len(wanted) == 0 || ctx.Err() != nil {
			break
		}
		found, id := lookInto(c, p, wanted)
		for index, end := range found {
			ends[index] = end
		}
		delete(wanted, id)
	}
	return ends, ctx.Err()
}

// lookInto finds the ends in one namespace, if it is one of those wanted.
func lookInto(c *ids, p place, wanted map[int32][]rtnl.Link) (map[int]*PodEnd, int32) {
	ns, err := netns.Open(p.path)
	if err != nil {
		return nil, -1
	}
	defer ns.Close()
	id, err := c.of(ns)
	if err != nil || id < 0 || wanted[id] == nil {
		return nil, -1
	}
	in, err := rtnl.Open(ns)
	if err != nil {
		return nil, -1
	}
	links, err := in.Links("veth")
	if err != nil {
		return nil, -1
	}
	addrs, _ := in.Addrs(0)
	found := map[int]*PodEnd{}
	for _, host := range wanted[id] {
		for _, l := range links {
			if l.Index == host.Peer && l.Peer == host.Index {
				found[host.Index] = podEnd(p, l, addrs)
			}
		}
	}
	return found, id
}

func podEnd(p place, l rtnl.Link, addrs []rtnl.Addr) *PodEnd {
	e := &PodEnd{Namespace: p.path, Process: p.process, Name: l.Name, MAC: l.MAC.String(), MTU: l.MTU, Up: l.Up(), Addrs: []netip.Prefix{}}
	for _, a := range addrs {
		if a.Link == l.Index && !linkLocal(a.Prefix.Addr()) {
			e.Addrs = append(e.Addrs, a.Prefix)
		}
	}
	slices.SortFunc(e.Addrs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return e
}
