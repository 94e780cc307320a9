//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// hops is the TTL of the outer header where the kernel would leave it at what the route says.
const hops = 64

func ipHeader(f inet.Family) int {
	if f == inet.IPv4 {
		return 20
	}
	return 40
}

// checksum asks for the UDP checksum that IPv6 demands (RFC 8200, section 8.1).
func checksum(to netip.Addr) uint16 {
	if to.Is4() {
		return 0
	}
	return rtnl.CsumFlag
}

// shared is the name of a device that the networks of a node share.
func shared(encap string, port, usual uint16) string {
	if port == usual {
		return "cb-" + encap
	}
	return fmt.Sprintf("cb-%s-%d", encap, port)
}

// encapRoutes adds the routes of a peer through a device in external mode, whose MTU is that over f.
func (n *Node) encapRoutes(p *peer.Peer, link int, f inet.Family, e rtnl.Encap, to *plan) {
	narrow := n.narrow(n.pathMTU(p), f)
	for _, r := range n.pods(p) {
		w := n.route(r, link)
		w.Encap, w.Src, w.MTU = e, n.source(r), narrow
		if r.Addr().Is4() {
			w.Scope = linkScope
		}
		to.routes = append(to.routes, w)
	}
}

// local is this node's endpoint if a link bears it, and the zero Addr behind an address translation, see [translated].
func (n *Node) local(a netip.Addr) (netip.Addr, error) {
	addrs, err := n.conn.Addrs(0)
	if err != nil || !slices.ContainsFunc(addrs, func(h rtnl.Addr) bool { return h.Prefix.Addr() == a }) {
		return netip.Addr{}, err
	}
	return a, nil
}

func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// tunnelEnds are both ends of the tunnel to a peer; the remote one is not this node's own.
func (n *Node) tunnelEnds(p *peer.Peer) (own, remote peer.Endpoint, err error) {
	own, remote, err = n.o.ends(p)
	if err == nil && n.under.isLocal(remote.Addr) {
		err = n.under.to(remote.Addr).err
	}
	return own, remote, err
}

// deviceRoutes adds the routes of a peer over a device that finds the way itself, whose MTU is that over f.
func (n *Node) deviceRoutes(p *peer.Peer, link int, f inet.Family, to *plan) {
	narrow := n.narrow(n.pathMTU(p), f)
	for _, r := range n.pods(p) {
		w := n.route(r, link)
		w.Metric, w.Src, w.MTU = n.metric(r, true), n.source(r), narrow
		if r.Addr().Is4() {
			w.Scope = linkScope
		}
		to.routes = append(to.routes, w)
	}
}

// plainReach is what others must know where there is nothing but addresses.
func (n *Node) plainReach(encap string) peer.Reach {
	return peer.Reach{Encap: encap, V4: peer.Endpoint{Addr: n.o.Node.V4.Addr}, V6: peer.Endpoint{Addr: n.o.Node.V6.Addr}}
}
