//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// Direct routes the ranges of a peer to its endpoint, without a tunnel. The peer has to be on a link of this node. IPv4
// ranges go by its IPv4 endpoint, or by the IPv6 one if it has no other (RFC 8950); IPv6 ranges need an IPv6 endpoint.
type Direct struct{}

// Name is "host-gw".
func (Direct) Name() string { return "host-gw" }

var directKind = &kind{name: "host-gw", of: func(*Config) Encap { return Direct{} }}

type direct struct{}

func (Direct) driver(*Options) (driver, error) { return direct{}, nil }

func (direct) layer() uint32                          { return 0 }
func (direct) overhead(inet.Family) int               { return 0 }
func (direct) devices(*site) ([]device, error)        { return nil, nil }
func (direct) peerDevices(*site, *peer.Peer) []device { return nil }

func (direct) reach(s *site) (peer.Reach, error) {
	return s.plainReach("host-gw"), nil
}

func (direct) ways(s *site, p *peer.Peer) (to [2]netip.Addr) {
	for _, r := range s.pods(p) {
		if a := hop(s, p, r); a.IsValid() {
			to[b2i(a.Is6())] = a
		}
	}
	return to
}

func (direct) plan(s *site, p *peer.Peer, to *plan) error {
	var errs []error
	for _, r := range s.pods(p) {
		a := hop(s, p, r)
		if !a.IsValid() {
			errs = append(errs, noHop(p, r))
			continue
		}
		way := s.under.to(a)
		switch {
		case way.err != nil:
			errs = append(errs, fmt.Errorf("range %s: %w", r, way.err))
		case way.via.IsValid():
			errs = append(errs, fmt.Errorf("its endpoint %s is not on a link of this node but behind the router %s, which does not know %s: "+
				"use \"overlay\" for it, for instance with \"encap\": \"vxlan\", or give it an endpoint on the link", a, way.via, r))
		default:
			w := s.route(r, way.link)
			w.Via = a
			to.Routes = append(to.Routes, w)
		}
	}
	return errors.Join(errs...)
}

// directRoutes adds plain routes to the ranges of a peer that is on a link of this node, and returns it with the ranges that
// cannot go so.
func (s *site) directRoutes(p *peer.Peer, to *plan) *peer.Peer {
	rest := *p
	rest.Pods = nil
	for _, r := range s.pods(p) {
		a := hop(s, p, r)
		if a.IsValid() {
			if way := s.under.to(a); way.err == nil && !way.via.IsValid() {
				w := s.route(r, way.link)
				w.Via = a
				to.Routes = append(to.Routes, w)
				continue
			}
		}
		rest.Pods = append(rest.Pods, r)
	}
	return &rest
}

// hop is the endpoint that a range is routed to.
func hop(s *site, p *peer.Peer, r netip.Prefix) netip.Addr {
	if r.Addr().Is4() && p.V4.Addr.IsValid() && s.o.Underlay != inet.IPv6 {
		return p.V4.Addr
	}
	if s.o.Underlay != inet.IPv4 {
		return p.V6.Addr
	}
	return netip.Addr{}
}

func noHop(p *peer.Peer, r netip.Prefix) error {
	if r.Addr().Is6() {
		return fmt.Errorf("its range %s needs an IPv6 endpoint, and it has %s: state one, since the kernel routes no IPv6 by an IPv4 next hop, "+
			"or use \"overlay\", for instance with \"encap\": \"vxlan\"", r, endpoints(p, 0))
	}
	return fmt.Errorf("its range %s needs an endpoint, and it has %s: state one", r, endpoints(p, 0))
}
