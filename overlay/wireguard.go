//go:build linux

package overlay

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// PortWireGuard is the usual one; it has no number of its own at IANA.
const PortWireGuard = 51820

// WireGuard encrypts. One device serves all peers, over both families of the underlay. A peer costs one WireGuard peer,
// whose allowed IPs are its ranges, and one route for each range. Every peer must have published its public key; one
// without an endpoint is let in from wherever it calls.
type WireGuard struct {
	Port      uint16        // UDP; 0: what Node states, else [PortWireGuard]
	Keepalive time.Duration // between packets that keep a firewall or an address translation open; 0: none

	// KeyDir holds a directory for each network, with its private key in wireguard.key. It is made once and must survive
	// a reboot. "": [DefaultKeyDir].
	KeyDir string
}

// Name is "wireguard".
func (WireGuard) Name() string { return "wireguard" }

var wireguardKind = &kind{
	name: "wireguard",
	keys: []*Key{keyPort, {Name: "persistentKeepalive", Usage: "`SECONDS` between packets that keep a way open", Value: func(c *Config) any { return &c.PersistentKeepalive }},
		{Name: "keyDir", Value: func(c *Config) any { return &c.KeyDir }}},
	of: func(c *Config) Encap {
		return WireGuard{Port: c.Port, Keepalive: time.Duration(c.PersistentKeepalive) * time.Second, KeyDir: cmp.Or(c.KeyDir, c.DataDir)}
	},
}

type wireguard struct {
	WireGuard
	o   *Options
	key privateKey // zero until it is needed
	own peer.PublicKey
}

func (w WireGuard) driver(o *Options) (driver, error) {
	for _, f := range o.families() {
		if w.Port == 0 {
			w.Port = o.Node.Endpoint(f).Port
		}
	}
	if w.Port == 0 {
		w.Port = PortWireGuard
	}
	if w.Keepalive < 0 || w.Keepalive > 65535*time.Second || w.Keepalive%time.Second != 0 {
		return nil, fmt.Errorf("keepalive %s: want whole seconds up to 65535, or 0 for none", w.Keepalive)
	}
	return &wireguard{WireGuard: w, o: o}, nil
}

func (w *wireguard) layer() uint32                          { return 1 }
func (w *wireguard) peerDevices(*site, *peer.Peer) []device { return nil }

// overhead is a header of 16 bytes and a tag of 16 (the WireGuard paper, section 5.4.6) in UDP.
func (w *wireguard) overhead(f inet.Family) int {
	const udp, header, tag = 8, 16, 16
	return ipHeader(f) + udp + header + tag
}

func (w *wireguard) devices(s *site) (_ []device, err error) {
	if w.key == (privateKey{}) {
		if w.key, err = loadKey(w.KeyDir, s.o.Network); err != nil {
			return nil, err
		}
		w.own = w.key.public()
	}
	return []device{{name: s.o.named("wg"), over: s.o.families()[0], tunnel: rtnl.WireGuard{}}}, nil
}

// translated: a peer answers to where it was last called from.
func (w *wireguard) translated(*site, inet.Family) (bool, error) { return true, nil }

func (w *wireguard) ways(s *site, p *peer.Peer) [2]netip.Addr { return s.oneWay(p) }

func (w *wireguard) plan(s *site, p *peer.Peer, to *plan) error {
	key := p.V4.PublicKey
	_, remote, err := s.tunnelEnds(p)
	switch {
	case !p.V4.Addr.IsValid() && !p.V6.Addr.IsValid():
		remote = peer.Endpoint{} // it calls
	case err != nil:
		return err
	case remote.PublicKey != (peer.PublicKey{}):
		key = remote.PublicKey
	}
	if key == (peer.PublicKey{}) {
		key = p.V6.PublicKey
	}
	if key == (peer.PublicKey{}) {
		return fmt.Errorf("it has no public key: run \"cniblocks wireguard pubkey %s\" there, and state what it prints as \"publicKey\"", s.o.Network)
	}
	if key == w.own {
		return fmt.Errorf("its public key %s is this node's own: a copied machine keeps its original's; remove %s on one of them", key, keyFile(w.KeyDir, s.o.Network))
	}
	s.overDevice(p, s.links.index[s.links.wanted[0].name], s.links.wanted[0].over, nil, to)
	t := tunnelPeer{key: key, keepalive: w.Keepalive, allowed: rangeList(s.pods(p))}
	if remote.Addr.IsValid() {
		t.end = netip.AddrPortFrom(remote.Addr, remote.Port)
		if remote.Port == 0 {
			t.end = netip.AddrPortFrom(remote.Addr, w.Port)
		}
	}
	to.tunnel = append(to.tunnel, t)
	return nil
}

func (w *wireguard) reach(s *site) (peer.Reach, error) {
	r := s.plainReach("wireguard")
	for _, e := range []*peer.Endpoint{&r.V4, &r.V6} {
		if e.Addr.IsValid() {
			e.Port, e.PublicKey = w.Port, w.own
		}
	}
	return r, nil
}

// peerKey tells the peers of a device apart.
type peerKey = peer.PublicKey

// tunnelPeer is a peer of a WireGuard device; comparable.
type tunnelPeer struct {
	key       peerKey
	end       netip.AddrPort
	keepalive time.Duration
	allowed   string // the allowed IPs, see rangeList
}

func keyOfTunnel(t *tunnelPeer) peerKey { return t.key }

func hashTunnel(k peerKey) uint64 {
	return reconcile.Mix(binary.NativeEndian.Uint64(k[:8]), binary.NativeEndian.Uint64(k[8:16]))
}

func (t tunnelPeer) String() string {
	return fmt.Sprintf("WireGuard peer %s at %s for %s", t.key, t.end, t.allowed)
}

// rangeList is ranges as one comparable value.
func rangeList(all []netip.Prefix) string {
	words := make([]string, len(all))
	for i, r := range all {
		words[i] = r.String()
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func (t tunnelPeer) ranges() []netip.Prefix {
	var all []netip.Prefix
	for s := range strings.SplitSeq(t.allowed, ",") {
		if r, err := netip.ParsePrefix(s); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// within reports whether u has all ranges of t.
func (t tunnelPeer) within(u tunnelPeer) bool {
	has := u.ranges()
	return !slices.ContainsFunc(t.ranges(), func(r netip.Prefix) bool { return !slices.Contains(has, r) })
}

// A device of ours has no peers but ours: allowed IPs that two programs write cannot be kept right.
var judgeTunnel = reconcile.Judge[tunnelPeer]{
	Ours: func(*tunnelPeer) bool { return true },
	Same: func(h, w *tunnelPeer) bool {
		return *h == *w || !w.end.IsValid() && h.key == w.key && h.keepalive == w.keepalive && h.allowed == w.allowed
	},
	Replaces: func(_, _ *tunnelPeer) bool { return true },
	Conflict: func(_, _ *tunnelPeer) {},
}
