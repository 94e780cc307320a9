//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// GRE is RFC 2784. One device for each family of the underlay serves all peers: each costs one route for each of its
// ranges, and carries both families of pods. The kernel has room for one such device of a family, so the networks of a
// node share it and differ by key.
type GRE struct {
	Key uint32 // RFC 2890; 0: [peer.DeriveVNI] of the network, or what Node states as its VNI
	TTL uint8  // of the outer header; 0: 64
	TOS uint8  // of the outer header; 0: that of the packet inside, where the kernel does so

	// NoKey sends no key, for equipment that expects none. The networks of a node cannot share the device then.
	NoKey bool

	// PointToPoint makes a device for each peer, as other equipment expects of a GRE tunnel.
	PointToPoint bool

	// L2 makes an Ethernet tunnel (gretap) for each peer and puts it on a bridge, whose subnet then spans the nodes. The
	// tunnels do not forward to each other.
	L2 L2
}

// Name is "gre".
func (GRE) Name() string { return "gre" }

var greKind = &kind{
	name: "gre", l2: true, pointToPoint: true,
	keys: []*Key{{Name: "mode", Usage: "the `WORD` point-to-point", Value: func(c *Config) any { return &c.Mode }},
		{Name: "key", Usage: "`NUMBER` of the tunnel", Value: func(c *Config) any { return &c.Key }},
		{Name: "noKey", Usage: "no key", Value: func(c *Config) any { return &c.NoKey }}, keyTTL, keyTOS, keyL2, keyAllowUplink, keyNeighSuppress},
	of: func(c *Config) Encap {
		return GRE{Key: c.Key, NoKey: c.NoKey, TTL: c.TTL, TOS: c.TOS, PointToPoint: c.Mode == PointToPoint, L2: c.l2()}
	},
	refuse: func(c *Config) error {
		switch {
		case c.L2 && c.PortIsolation && c.Encap == "gre":
			return errors.New("\"portIsolation\" with \"l2\" and encap \"gre\": the tunnels are isolated ports too, and isolated ports cannot talk to each other; leave it out, or use vxlan")
		case c.NoKey && c.Key != 0:
			return fmt.Errorf("\"noKey\" with key %d: state one of them", c.Key)
		}
		return nil
	},
}

// Keys that other encapsulations have too.
var (
	keyTTL = &Key{Name: "ttl", Usage: "`NUMBER` in the outer header", Value: func(c *Config) any { return &c.TTL }}
	keyTOS = &Key{Name: "tos", Usage: "`NUMBER` in the outer header", Value: func(c *Config) any { return &c.TOS }}
)

type gre struct {
	GRE
	o *Options
}

func (g GRE) driver(o *Options) (driver, error) {
	if g.Key == 0 && !g.NoKey {
		for _, f := range inet.Families {
			if v := o.Node.Endpoint(f).VNI; v != 0 {
				g.Key = v
			}
		}
	}
	if g.Key == 0 && !g.NoKey {
		g.Key = peer.DeriveVNI(o.Network)
	}
	if g.TTL == 0 {
		g.TTL = hops
	}
	if g.NoKey && g.Key != 0 {
		return nil, fmt.Errorf("key %d together with no key: state one of them", g.Key)
	}
	if o.Device != "" {
		return nil, fmt.Errorf("device %q: the devices of gre have fixed names, since networks share them or peers have one each; leave it out", o.Device)
	}
	return &gre{g, o}, g.L2.check()
}

func (g *gre) layer() uint32 { return 1 }

func (g *gre) overhead(f inet.Family) int {
	const base, key, ethernet = 4, 4, 14
	n := ipHeader(f) + base
	if !g.NoKey {
		n += key
	}
	if g.L2.on() {
		n += ethernet
	}
	return n
}

// perPeer reports whether each peer has a device.
func (g *gre) perPeer() bool { return g.PointToPoint || g.L2.on() }

func greName(f inet.Family) string {
	if f == inet.IPv4 {
		return "cb-gre"
	}
	return "cb-ip6gre"
}

func (g *gre) devices(s *site) (all []device, err error) {
	if g.L2.on() {
		return nil, g.L2.mayJoin(s)
	}
	if g.perPeer() {
		return nil, nil
	}
	for _, f := range s.o.families() {
		all = append(all, device{name: greName(f), over: f, shared: !g.NoKey, tunnel: rtnl.GRE{V6: f == inet.IPv6, External: true}})
	}
	return all, nil
}

func (g *gre) peerDevices(s *site, p *peer.Peer) []device {
	if !g.perPeer() {
		return nil
	}
	own, remote, err := s.o.ends(p)
	if err != nil {
		return nil
	}
	d := device{name: g.deviceOf(s, p), over: inet.FamilyOf(own.Addr), tunnel: rtnl.GRE{
		V6: own.Addr.Is6(), Tap: g.L2.on(), Local: own.Addr, Remote: remote.Addr, Key: g.Key, Keyed: !g.NoKey, TTL: g.TTL, TOS: g.TOS,
	}}
	if g.L2.on() {
		d.bare, d.bridge = true, g.L2.Bridge
		d.port = g.L2.port(rtnl.PortFlag{Attr: rtnl.Isolated, On: true})
	}
	return []device{d}
}

func (g *gre) deviceOf(s *site, p *peer.Peer) string {
	kind := "gre"
	if g.L2.on() {
		kind = "tap"
	}
	return hashed(kind, 8, s.o.Network, p.Name)
}

func (g *gre) ways(s *site, p *peer.Peer) [2]netip.Addr { return s.oneWay(p) }

func (g *gre) plan(s *site, p *peer.Peer, to *plan) error {
	own, remote, err := s.tunnelEnds(p)
	if err != nil || g.L2.on() {
		return err
	}
	f := inet.FamilyOf(own.Addr)
	if g.perPeer() {
		s.overDevice(p, s.links.index[g.deviceOf(s, p)], f, nil, to)
		return nil
	}
	e := rtnl.Encap{ID: uint64(g.Key), Dst: remote.Addr, Src: own.Addr, TTL: g.TTL, TOS: g.TOS}
	if !g.NoKey {
		e.Flags = rtnl.KeyFlag
	}
	s.overDevice(p, s.links.index[greName(f)], f, &e, to)
	return nil
}

func (g *gre) reach(s *site) (peer.Reach, error) {
	r := s.plainReach("gre")
	for _, e := range []*peer.Endpoint{&r.V4, &r.V6} {
		if e.Addr.IsValid() {
			e.VNI = s.o.Node.Endpoint(inet.FamilyOf(e.Addr)).VNI
		}
	}
	return r, nil
}
