//go:build linux

package overlay

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// site is what a driver sees of a node: how it is configured, which devices stand, how endpoints are reached. Who gets one
// reads it; the Node alone changes it.
type site struct {
	o       *Options
	d       driver
	src     [2]netip.Addr // of IPv4 and IPv6 routes
	kernel  reader
	members members
	links   linkSet
	under   *underlay // that the plans are made by; nil: they are to be made anew
	widest  [2]int    // MTU of the devices over IPv4 and IPv6
}

// reader is the part of [rtnl.Conn] that writes nothing.
type reader interface {
	Links(kind string) ([]rtnl.Link, error)
	LinkByName(name string) (rtnl.Link, error)
	Addrs(link int) ([]rtnl.Addr, error)
}

// driver is what the encapsulations differ in. Its methods are called with the lock of the Node held.
type driver interface {
	devices(s *site) ([]device, error)
	peerDevices(s *site, p *peer.Peer) []device // for those with a device for each peer
	plan(s *site, p *peer.Peer, to *plan) error // adds what can be done, and says why the rest cannot
	ways(s *site, p *peer.Peer) [2]netip.Addr   // the endpoints that packets to the peer go to, some may be zero
	overhead(over inet.Family) int              // in bytes
	reach(s *site) (peer.Reach, error)
	layer() uint32 // 0 for plain routes, 1 for tunnels
}

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

// sharedName is the name of a device that the networks of a node share.
func sharedName(encap string, port, usual uint16) string {
	if port == usual {
		return "cb-" + encap
	}
	return fmt.Sprintf("cb-%s-%d", encap, port)
}

// spread is how many metrics a layer has.
const spread = 1 << 14

// metric is where the routes to a range stand. IPv4 routes that differ in nothing but their next hop share one chain of
// the kernel's hash table, which makes 10 000 of them quadratic; a metric that depends on the range takes them apart. A
// range keeps its metric whoever has it, so that a route moves in one replacement. Plain routes stand before tunnels.
func (s *site) metric(dst netip.Prefix) uint32 {
	h := uint32(2166136261) // FNV-1a
	b := dst.Addr().As16()
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return s.firstMetric() + (h^h>>15)%spread
}

func (s *site) firstMetric() uint32 { return s.o.Metric + 1 + s.d.layer()*spread }

// inLayer reports whether a metric is one that this node's routes can have.
func (s *site) inLayer(metric uint32) bool {
	first := s.firstMetric()
	return metric >= first && metric < first+spread
}

// route is what all routes of this node have in common.
func (s *site) route(dst netip.Prefix, link int) rtnl.Route {
	return rtnl.Route{Dst: dst, Link: link, Table: s.o.Table, Proto: Proto, Type: unix.RTN_UNICAST, Metric: s.metric(dst)}
}

// source is the node's own address for a route to dst, which the overlay devices carry.
func (s *site) source(dst netip.Prefix) netip.Addr { return s.src[b2i(dst.Addr().Is6())] }

// pods are the ranges of a peer that are carried.
func (s *site) pods(p *peer.Peer) []netip.Prefix {
	if len(s.o.Families) == 0 {
		return p.Pods
	}
	return slices.DeleteFunc(slices.Clone(p.Pods), func(r netip.Prefix) bool { return !s.o.carries(inet.FamilyOf(r.Addr())) })
}

// overDevice adds the routes of a peer over a device, whose MTU is that over f. encap is nil for one that finds the way itself.
func (s *site) overDevice(p *peer.Peer, link int, f inet.Family, encap *rtnl.Encap, to *plan) {
	narrow := s.narrow(to.mtu, f)
	for _, r := range s.pods(p) {
		w := s.route(r, link)
		w.Src, w.MTU = s.source(r), narrow
		if encap != nil {
			w.Encap = *encap
		} else {
			w.Metric = s.firstMetric()
		}
		if r.Addr().Is4() {
			w.Scope = linkScope
		}
		to.Routes = append(to.Routes, w)
	}
}

// local is this node's endpoint if a link bears it, and the zero Addr behind an address translation, see [translated].
func (s *site) local(a netip.Addr) (netip.Addr, error) {
	addrs, err := s.kernel.Addrs(0)
	if err != nil || !slices.ContainsFunc(addrs, func(h rtnl.Addr) bool { return h.Prefix.Addr() == a }) {
		return netip.Addr{}, err
	}
	return a, nil
}

// tunnelEnds are both ends of the tunnel to a peer; the remote one is not this node's own.
func (s *site) tunnelEnds(p *peer.Peer) (own, remote peer.Endpoint, err error) {
	own, remote, err = s.o.ends(p)
	if err == nil && s.under.isLocal(remote.Addr) {
		err = s.under.to(remote.Addr).err
	}
	return own, remote, err
}

// oneWay is the endpoint of the family that both ends have.
func (s *site) oneWay(p *peer.Peer) (to [2]netip.Addr) {
	if _, remote, err := s.o.ends(p); err == nil {
		to[0] = remote.Addr
	}
	return to
}

// plainReach is what others must know where there is nothing but addresses.
func (s *site) plainReach(encap string) peer.Reach {
	return peer.Reach{Encap: encap, V4: peer.Endpoint{Addr: s.o.Node.V4.Addr}, V6: peer.Endpoint{Addr: s.o.Node.V6.Addr}}
}

// perPeer reports whether each peer has a device.
func (s *site) perPeer() bool {
	d, ok := s.d.(interface{ perPeer() bool })
	return ok && d.perPeer()
}

// notThere takes "it is not there" out of what failed.
func notThere(err error) error { return rtnl.Except(err, fs.ErrNotExist) }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
