//go:build linux

package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// elders puts those of a new list first in line that hold their ranges already.
func (n *Node) elders(list []peer.Peer) {
	n.held = nil
	if n.list == nil {
		return
	}
	n.held = make(map[netip.Prefix]string, len(n.claims))
	for _, c := range n.claims {
		n.held[c.r] = c.owner
	}
}

// planAll makes the wanted state of the list. have are this node's routes in the kernel, which tell in a new process who
// was there before.
func (n *Node) planAll(have []rtnl.Route, k *kernel) {
	n.skipped = nil
	n.survey()
	n.want = newObjects(len(n.list))
	if !n.forEach() {
		n.disputes = n.disputed(func(p *peer.Peer) bool { return n.elder(p, have, k) })
	}
	var made plan
	for i := range n.list {
		p := &n.list[i]
		made.clear()
		err := n.disputes[i]
		if err == nil {
			err = n.planOne(p, &made)
		}
		if clash := n.want.clash(&made); clash != nil {
			made.clear()
			err = clash
		}
		if err != nil {
			n.skipped = append(n.skipped, &Refused{p.Name, err})
		}
		n.want.put(&made)
	}
}

// clash finds what would overwrite another peer's.
func (o objects) clash(p *plan) error {
	for i := range p.fdbs {
		if h, ok := o.fdbs.get(keyOfFDB(&p.fdbs[i])); ok {
			return fmt.Errorf("its MAC %s is also that of the peer at %s: give every tunnel device a MAC of its own, or state none", h.MAC, h.Dst)
		}
	}
	for _, t := range p.tunnel {
		if h, ok := o.tunnel.get(t.key); ok {
			return fmt.Errorf("its public key %s is also that of the peer at %s: make a key on every node; a copied machine keeps its original's", h.key, h.end)
		}
	}
	return nil
}

// planOne adds a peer's part of the wanted state.
func (n *Node) planOne(p *peer.Peer, to *plan) error {
	mtu, cut := n.way(p)
	if mtu != 0 && mtu < MinMTUv6 && slices.ContainsFunc(n.pods(p), func(r netip.Prefix) bool { return r.Addr().Is6() }) {
		return fmt.Errorf("%d bytes are left for pods on the way to it, and IPv6 needs %d (RFC 8200): raise the MTU of the underlay, or leave its IPv6 ranges out", mtu, MinMTUv6)
	}
	n.at, n.atMTU = p, mtu
	err := n.d.plan(n, p, to)
	n.at = nil
	if len(to.routes)+len(to.fdbs)+len(to.tunnel) > 0 || err == nil {
		n.least = smaller(n.least, mtu)
	}
	if err == nil {
		err = cut // its entries stay, for when there is a way again
	}
	return err
}

// survey looks up all paths and widths anew.
func (n *Node) survey() {
	n.least, n.reached, n.cut = 0, 0, nil
	n.widest = map[inet.Family]int{}
	n.ask()
	for _, f := range inet.Families {
		n.widest[f] = n.deviceMTU(f)
	}
}

// ask looks up all paths, in batches where the kernel must be asked.
func (n *Node) ask() {
	to := make([]netip.Addr, 0, len(n.list))
	for i := range n.list {
		for _, a := range n.d.ways(n, &n.list[i]) {
			if a.IsValid() {
				to = append(to, a)
			}
		}
	}
	n.under.prepare(to)
}

// forEach reports whether each peer has a device.
func (n *Node) forEach() bool {
	d, ok := n.d.(interface{ forEach() bool })
	return ok && d.forEach()
}

// disputedDevices settles who may have a device. In a new process those were there before whose device is.
func (n *Node) disputedDevices() error {
	links, err := n.conn.Links("")
	if err != nil {
		return err
	}
	n.disputes = n.disputed(func(p *peer.Peer) bool {
		d := n.d.peerDevices(n, *p)
		return len(d) > 0 && indexOf(links, d[0].name) != 0
	})
	return nil
}

// disputed finds the peers that claim what another one has. Of two the one stays that was there before: in the last list,
// or, in a new process, in the kernel, as stood tells; else the one that stands first in the list.
func (n *Node) disputed(stood func(*peer.Peer) bool) map[int]error {
	n.claims = make(claims, 0, 2*len(n.list))
	for _, p := range n.list {
		for _, r := range p.Pods {
			n.claims = append(n.claims, claim{r, p.Name})
		}
	}
	if n.claims.disjoint() {
		return nil
	}
	order := make([]int, len(n.list))
	for i := range order {
		order[i] = i
	}
	elder := func(i int) int {
		p := &n.list[i]
		if n.held == nil && stood(p) || slices.ContainsFunc(p.Pods, func(r netip.Prefix) bool { return n.held[r] == p.Name }) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int) int { return elder(a) - elder(b) })
	bad := map[int]error{}
	n.claims = n.claims[:0]
	for _, i := range order {
		p := n.list[i]
		for _, r := range p.Pods {
			if _, clash := n.claims.at(r); clash != nil && clash.owner != p.Name {
				bad[i] = fmt.Errorf("its range %s overlaps %s of peer %q, which was there before: give every peer ranges of its own", r, clash.r, clash.owner)
				break
			}
		}
		if bad[i] != nil {
			continue
		}
		for _, r := range p.Pods {
			if _, clash := n.claims.at(r); clash == nil {
				n.claims.add(r, p.Name)
			}
		}
	}
	return bad
}

// elder reports whether the kernel shows that a peer was there before.
func (n *Node) elder(p *peer.Peer, have []rtnl.Route, k *kernel) bool {
	var made plan
	if n.d.plan(n, p, &made) != nil {
		return false
	}
	for _, t := range made.tunnel {
		return slices.ContainsFunc(k.tunnel, func(h tunnelPeer) bool { return h.key == t.key && h.allowed == t.allowed })
	}
	return slices.ContainsFunc(made.routes, func(r rtnl.Route) bool { return slices.Contains(have, r) })
}
