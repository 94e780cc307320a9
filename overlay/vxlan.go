//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// Ports of IANA, and the kernel's from before there was one, which flannel keeps.
const (
	PortVXLAN   = 4789
	PortGPE     = 4790
	PortFlannel = 8472
)

// VXLAN is RFC 7348: one device for the network, without learning. Each peer costs a route for each of its ranges, a
// neighbour entry for each family of its pods, and one FDB entry. All nodes use one family of the underlay.
//
// MACs: what the peer published wins; this node's own is what [Options].Node states, else its existing device's, else
// [peer.DeriveMAC]; a peer that published none is taken to have derived it.
type VXLAN struct {
	VNI  uint32 // 24 bits; 0: [peer.DeriveVNI] of the network
	Port uint16 // UDP; 0: [PortVXLAN], with GPE [PortGPE]
	GBP  bool   // carry the packets' group policy mark; all nodes or none

	// GPE puts IP packets into VXLAN-GPE without an inner Ethernet, 14 bytes less for each. A peer costs one route for
	// each range and nothing else. One device takes the whole port, so the networks of a node share it and differ by VNI.
	GPE bool

	// DirectRouting uses a plain route to a peer whose endpoint is on a link of this node.
	DirectRouting bool

	// L2 puts the device on a bridge, whose subnet then spans the nodes. A peer costs one FDB entry, for head-end
	// replication; MACs are learned.
	L2 L2
}

// Name is "vxlan".
func (VXLAN) Name() string { return "vxlan" }

var vxlanKind = &kind{
	name: "vxlan", l2: true,
	keys: []*Key{keyVNI, keyPort, {Name: "gbp", Usage: "carry group policy marks", Value: func(c *Config) any { return &c.GBP }},
		{Name: "gpe", Usage: "no inner Ethernet", Value: func(c *Config) any { return &c.GPE }},
		{Name: "directRouting", Usage: "no tunnel to nodes on the same link", Value: func(c *Config) any { return &c.DirectRouting }},
		keyL2, keyAllowUplink, keyNeighSuppress},
	of: func(c *Config) Encap {
		return VXLAN{VNI: c.VNI, Port: c.Port, GBP: c.GBP, GPE: c.GPE, DirectRouting: c.DirectRouting, L2: c.l2()}
	},
	refuse: (*Config).vxlanRefusal,
	forms:  []Config{{Encap: "vxlan", GPE: true}},
}

// Keys that other encapsulations have too.
var (
	keyVNI  = &Key{Name: "vni", Usage: "`NUMBER` of the tunnel", bits: 24, Value: func(c *Config) any { return &c.VNI }}
	keyPort = &Key{Name: "port", Usage: "UDP `PORT`", Value: func(c *Config) any { return &c.Port }}
)

func (c *Config) vxlanRefusal() error {
	switch {
	case c.GPE && c.GBP:
		return errors.New("\"gpe\" with \"gbp\": VXLAN-GPE has no group policy; leave one of them out")
	case c.GPE && c.L2:
		return errors.New("\"gpe\" with \"l2\": it carries no Ethernet; leave one of them out")
	case c.DirectRouting && c.L2:
		return errors.New("\"directRouting\" with \"l2\": nothing is routed there; leave one of them out")
	}
	return nil
}

type vxlan struct {
	VXLAN
	family inet.Family
	own    peer.Endpoint
}

func (v VXLAN) driver(o *Options) (driver, error) {
	d := &vxlan{VXLAN: v, family: o.Underlay}
	if d.family == 0 {
		d.family = inet.IPv4
		if !o.Node.V4.Addr.IsValid() {
			d.family = inet.IPv6
		}
	}
	d.own = o.Node.Endpoint(d.family)
	if d.VNI == 0 {
		d.VNI = d.own.VNI
	}
	if d.VNI == 0 {
		d.VNI = peer.DeriveVNI(o.Network)
	}
	if d.VNI > peer.MaxVNI {
		return nil, fmt.Errorf("vni %d: does not fit into 24 bits: want 1 to %d, or 0 for one made of the network's name", d.VNI, peer.MaxVNI)
	}
	if d.Port == 0 {
		d.Port = d.own.Port
	}
	if d.Port == 0 {
		d.Port = PortVXLAN
		if v.GPE {
			d.Port = PortGPE
		}
	}
	if err := (&Config{GPE: v.GPE, GBP: v.GBP, L2: v.L2.on(), DirectRouting: v.DirectRouting}).vxlanRefusal(); err != nil {
		return nil, err
	}
	return d, v.L2.check()
}

func (d *vxlan) layer() uint32 { return 1 }

func (d *vxlan) overhead(f inet.Family) int {
	const udp, header, ethernet = 8, 8, 14
	n := ipHeader(f) + udp + header
	if !d.GPE {
		n += ethernet
	}
	return n
}

func (d *vxlan) devices(s *site) (_ []device, err error) {
	t := rtnl.VXLAN{VNI: d.VNI, Port: d.Port, GBP: d.GBP}
	if d.GPE {
		name := s.o.Device
		if name == "" {
			name = sharedName("gpe", d.Port, PortGPE)
		}
		return []device{{name: name, over: d.family, shared: true, tunnel: rtnl.VXLAN{Port: d.Port, GPE: true, External: true}}}, nil
	}
	if t.Local, err = s.local(d.own.Addr); err != nil {
		return nil, err
	}
	dev := device{name: s.o.named("vxlan"), over: d.family, tunnel: t, mac: d.own.MAC}
	if d.L2.on() {
		t.Learning = true
		dev.tunnel, dev.bare, dev.bridge, dev.port = t, true, d.L2.Bridge, d.L2.port()
		return []device{dev}, d.L2.mayJoin(s, dev.name)
	}
	if err := d.follow(s, &dev, t); err != nil {
		return nil, err
	}
	d.own.MAC = dev.mac // what was found stays, should the device go
	return []device{dev}, nil
}

// follow gives the device the MAC of the existing one, unless one is stated, else the derived one. An existing device that
// is bound to the link with this node's endpoint, as flannel makes it, does as well as one that is not.
func (d *vxlan) follow(s *site, dev *device, t rtnl.VXLAN) error {
	l, err := s.kernel.LinkByName(dev.name)
	if notThere(err) != nil {
		return err
	}
	there, ok := l.Tunnel().(rtnl.VXLAN)
	if dev.mac == (inet.MAC{}) {
		dev.mac = peer.DeriveMAC(s.o.Network, s.o.Node.Name, d.family)
		if ok {
			dev.mac = l.MAC
		}
	}
	if !ok || there.Link == 0 {
		return nil
	}
	addrs, err := s.kernel.Addrs(there.Link)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix.Addr() == d.own.Addr }) {
		t.Link = there.Link
		dev.tunnel = t
	}
	return nil
}

// translated: a device over IPv4 need not be bound to an address. One that is has lost it.
func (d *vxlan) translated(s *site, f inet.Family) (bool, error) {
	if f == inet.IPv6 || d.GPE {
		return false, nil
	}
	l, err := s.kernel.LinkByName(s.o.named("vxlan"))
	there, _ := l.Tunnel().(rtnl.VXLAN)
	return there.Local != d.own.Addr, notThere(err)
}

func (d *vxlan) peerDevices(*site, *peer.Peer) []device { return nil }

func (d *vxlan) ways(_ *site, p *peer.Peer) (to [2]netip.Addr) {
	to[0] = p.Endpoint(d.family).Addr
	return to
}

func (d *vxlan) plan(s *site, p *peer.Peer, to *plan) error {
	end := p.Endpoint(d.family)
	if !end.Addr.IsValid() {
		return fmt.Errorf("it has no %s endpoint (%s), and this network's tunnels run over %[1]s: state one, or another family for \"underlay\"", d.family, endpoints(p, 0))
	}
	if s.under.isLocal(end.Addr) {
		return s.under.to(end.Addr).err
	}
	link := s.links.index[s.links.wanted[0].name]
	if d.L2.on() {
		to.FDBs = append(to.FDBs, d.fdb(link, inet.MAC{}, end))
		return nil
	}
	if d.DirectRouting {
		if p = s.directRoutes(p, to); len(p.Pods) == 0 {
			return nil
		}
	}
	if d.GPE {
		d.gpe(s, p, end, link, to)
	} else {
		d.ethernet(s, p, end, link, to)
	}
	return nil
}

// ethernet leads the ranges to the peer's own address, that to its MAC, and that to its endpoint.
func (d *vxlan) ethernet(s *site, p *peer.Peer, end peer.Endpoint, link int, to *plan) {
	mac := end.MAC
	if mac == (inet.MAC{}) {
		mac = peer.DeriveMAC(s.o.Network, p.Name, d.family)
	}
	to.FDBs = append(to.FDBs, d.fdb(link, mac, end))
	var via [2]netip.Addr
	narrow := s.narrow(to.mtu, d.family)
	for _, r := range s.pods(p) {
		i := b2i(r.Addr().Is6())
		if !via[i].IsValid() {
			via[i] = peer.NodeAddr(r)
			to.Neighs = append(to.Neighs, rtnl.Neigh{Link: link, IP: via[i], MAC: mac, Proto: Proto})
		}
		w := s.route(r, link)
		w.Via, w.OnLink, w.Src, w.MTU = via[i], true, s.source(r), narrow
		to.Routes = append(to.Routes, w)
	}
}

// fdb states port and VNI only where they are not the device's, as the kernel reports them.
func (d *vxlan) fdb(link int, mac inet.MAC, end peer.Endpoint) rtnl.FDB {
	f := rtnl.FDB{Link: link, MAC: mac, Dst: end.Addr, Extern: true}
	if end.Port != 0 && end.Port != d.Port {
		f.Port = end.Port
	}
	if end.VNI != 0 && end.VNI != d.VNI {
		f.VNI = end.VNI
	}
	return f
}

func (d *vxlan) gpe(s *site, p *peer.Peer, end peer.Endpoint, link int, to *plan) {
	vni := d.VNI
	if end.VNI != 0 {
		vni = end.VNI
	}
	s.overDevice(p, link, d.family, &rtnl.Encap{ID: uint64(vni), Dst: end.Addr, Src: d.own.Addr, TTL: hops, Flags: rtnl.KeyFlag | checksum(end.Addr)}, to)
}

func (d *vxlan) reach(s *site) (peer.Reach, error) {
	r := s.plainReach("vxlan")
	end := &r.V4
	if d.family == inet.IPv6 {
		end = &r.V6
	}
	end.Port, end.VNI = d.Port, d.VNI
	if d.GPE || d.L2.on() {
		return r, nil
	}
	end.MAC = s.links.wanted[0].mac
	return r, nil
}
