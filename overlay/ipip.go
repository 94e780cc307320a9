//go:build linux

package overlay

import (
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// IPIP puts packets straight into IP. Over IPv4 an ipip device carries IPv4 pods (RFC 2003) and a sit device IPv6 ones
// (RFC 4213); over IPv6 one ip6tnl device carries both (RFC 2473). A peer costs one route for each of its ranges. There is
// nothing in a packet to tell networks apart by, so those of a node share the devices, and their ranges must differ.
// [Options].Device names the ipip device alone.
type IPIP struct {
	TTL uint8 // of the outer header; 0: 64 over IPv6, else that of the packet inside
	TOS uint8 // of the outer header; 0: none; over IPv4 1 is that of the packet inside
}

// Name is "ipip".
func (IPIP) Name() string { return "ipip" }

var ipipKind = &kind{name: "ipip", keys: []*Key{keyTTL, keyTOS}, of: func(c *Config) Encap { return IPIP{TTL: c.TTL, TOS: c.TOS} }}

type ipip struct {
	IPIP
	name string // of the ipip device
}

func (i IPIP) driver(o *Options) (driver, error) {
	if o.Device != "" {
		return &ipip{i, o.Device}, nil
	}
	return &ipip{i, ipipName}, nil
}

const (
	ipipName   = "cb-ipip"
	sitName    = "cb-sit"
	ip6tnlName = "cb-ip6tnl"
)

func (i *ipip) layer() uint32                          { return 1 }
func (i *ipip) overhead(f inet.Family) int             { return ipHeader(f) }
func (i *ipip) peerDevices(*site, *peer.Peer) []device { return nil }

func (i *ipip) devices(s *site) (all []device, err error) {
	for _, f := range s.o.families() {
		if f == inet.IPv6 {
			all = append(all, device{name: ip6tnlName, over: f, shared: true, tunnel: rtnl.IPTunnel{Type: "ip6tnl", External: true}})
			continue
		}
		local := s.o.Node.V4.Addr
		for _, inner := range inet.Families {
			name, kind := i.name, "ipip"
			if inner == inet.IPv6 {
				name, kind = sitName, "sit"
			}
			if s.o.carries(inner) && (inner == inet.IPv4 || s.needsSIT()) {
				all = append(all, device{name: name, over: f, inner: inner, shared: true, tunnel: rtnl.IPTunnel{Type: kind, Local: local, TTL: i.TTL, TOS: i.TOS}})
			}
		}
	}
	return all, nil
}

// needsSIT reports whether IPv6 pods are to be carried over IPv4: not every kernel has sit, and not every network IPv6.
func (s *site) needsSIT() bool {
	if len(s.o.Node.PodsOf(inet.IPv6)) > 0 {
		return true
	}
	for _, p := range s.members.list {
		if len(p.PodsOf(inet.IPv6)) > 0 {
			return true
		}
	}
	return false
}

func (i *ipip) ways(s *site, p *peer.Peer) [2]netip.Addr { return s.oneWay(p) }

func (i *ipip) plan(s *site, p *peer.Peer, to *plan) error {
	own, remote, err := s.tunnelEnds(p)
	if err != nil {
		return err
	}
	if own.Addr.Is6() {
		ttl := i.TTL
		if ttl == 0 {
			ttl = hops
		}
		s.overDevice(p, s.links.index[ip6tnlName], inet.IPv6, &rtnl.Encap{Dst: remote.Addr, Src: own.Addr, TTL: ttl, TOS: i.TOS}, to)
		return nil
	}
	narrow := s.narrow(to.mtu, inet.IPv4)
	for _, r := range s.pods(p) {
		w := s.route(r, s.links.index[i.name])
		w.Via, w.OnLink = remote.Addr, true
		if r.Addr().Is6() {
			// RFC 4213, section 3: the next hop ::a.b.c.d names the IPv4 end of the tunnel.
			v4 := remote.Addr.As4()
			w.Link, w.Via = s.links.index[sitName], netip.AddrFrom16([16]byte{12: v4[0], 13: v4[1], 14: v4[2], 15: v4[3]})
		}
		w.Src, w.MTU = s.source(r), narrow
		to.Routes = append(to.Routes, w)
	}
	return nil
}

func (i *ipip) reach(s *site) (peer.Reach, error) { return s.plainReach("ipip"), nil }
