//go:build linux

package overlay

import (
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// PortGeneve is that of RFC 8926.
const PortGeneve = 6081

// Geneve is RFC 8926 with IP packets inside, without an inner Ethernet. One device serves all peers, over both families
// of the underlay; a peer costs one route for each of its ranges. The device takes the whole port, so the networks of a
// node share it and differ by VNI. Needs Linux 5.18.
type Geneve struct {
	VNI  uint32 // 24 bits; 0: what Node states, else [peer.DeriveVNI] of the network
	Port uint16 // UDP; 0: what Node states, else [PortGeneve]; the same on all nodes
}

// Name is "geneve".
func (Geneve) Name() string { return "geneve" }

var geneveKind = &kind{name: "geneve", keys: []*Key{keyVNI, keyPort}, of: func(c *Config) Encap { return Geneve{VNI: c.VNI, Port: c.Port} }}

type geneve struct {
	Geneve
	name string
}

func (g Geneve) driver(o *Options) (driver, error) {
	for _, f := range o.families() {
		if e := o.Node.Endpoint(f); g.VNI == 0 {
			g.VNI = e.VNI
		}
		if e := o.Node.Endpoint(f); g.Port == 0 {
			g.Port = e.Port
		}
	}
	if g.VNI == 0 {
		g.VNI = peer.DeriveVNI(o.Network)
	}
	if g.VNI > peer.MaxVNI {
		return nil, fmt.Errorf("vni %d: does not fit into 24 bits: want 1 to %d, or 0 for one made of the network's name", g.VNI, peer.MaxVNI)
	}
	if g.Port == 0 {
		g.Port = PortGeneve
	}
	d := &geneve{Geneve: g, name: o.Device}
	if d.name == "" {
		d.name = sharedName("geneve", g.Port, PortGeneve)
	}
	return d, nil
}

func (g *geneve) layer() uint32                          { return 1 }
func (g *geneve) peerDevices(*site, *peer.Peer) []device { return nil }

// overhead: 14 bytes less are on the wire, but the kernel keeps room for an inner Ethernet that is not there, and tells
// senders so.
func (g *geneve) overhead(f inet.Family) int {
	const udp, header, ethernet = 8, 8, 14
	return ipHeader(f) + udp + header + ethernet
}

func (g *geneve) devices(s *site) ([]device, error) {
	// Its MTU is that of the wider underlay; a route over the narrower one says so.
	return []device{{name: g.name, over: s.o.families()[0], shared: true, tunnel: rtnl.Geneve{Port: g.Port, External: true, InnerIP: true}}}, nil
}

func (g *geneve) ways(s *site, p *peer.Peer) [2]netip.Addr { return s.oneWay(p) }

func (g *geneve) plan(s *site, p *peer.Peer, to *plan) error {
	own, remote, err := s.tunnelEnds(p)
	if err != nil {
		return err
	}
	vni := g.VNI
	if remote.VNI != 0 {
		vni = remote.VNI
	}
	e := rtnl.Encap{ID: uint64(vni), Dst: remote.Addr, Src: own.Addr, TTL: hops, Flags: rtnl.KeyFlag | checksum(remote.Addr)}
	s.overDevice(p, s.links.index[g.name], s.links.wanted[0].over, &e, to)
	return nil
}

func (g *geneve) reach(s *site) (peer.Reach, error) {
	r := s.plainReach("geneve")
	for _, e := range []*peer.Endpoint{&r.V4, &r.V6} {
		if e.Addr.IsValid() {
			e.VNI, e.Port = g.VNI, g.Port
		}
	}
	return r, nil
}
