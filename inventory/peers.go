//go:build linux

package inventory

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/kernel/wg"
	"github.com/cniblocks/cniblocks/link"
)

// way is how the routes over a tunnel lead to the other nodes.
type way struct {
	macs map[netip.Addr]inet.MAC // neighbours
	ends map[inet.MAC]netip.Addr // FDB
}

// readPeers finds out of the kernel which nodes this one sends to: by routes of ours, by the FDB of devices that carry
// Ethernet, by the peers of WireGuard.
func (r *reader) readPeers(ctx context.Context, routes []rtnl.Route) error {
	var errs []error
	ways := map[int]way{}
	for i := range r.n.Devices {
		d := &r.n.Devices[i]
		if d.Owner != Ours || d.VLAN != 0 {
			continue
		}
		switch d.Kind {
		case "vxlan":
			w, err := r.readWay(d)
			ways[d.Index] = w
			errs = append(errs, err)
		case "wireguard":
			errs = append(errs, r.readWireGuard(ctx, d))
		}
		if t, ok := r.link(d.Index).Tunnel().(rtnl.GRE); ok && t.Tap && t.Remote.IsValid() {
			r.peer(r.networkOf(d.Name), d.Name, t.Remote)
		}
	}
	for _, w := range routes {
		if w.Proto != link.Proto || w.Link == 0 {
			continue
		}
		l := r.link(w.Link)
		if end := endpoint(w, l, ways); end.IsValid() {
			p := r.peer(cmp.Or(r.networkOf(l.Name), r.n.OfPrefix(w.Dst)), l.Name, end)
			p.Pods = append(p.Pods, w.Dst)
		}
		if w.Encap.Src.IsValid() {
			r.local(l.Index, w.Encap.Src)
		}
	}
	return errors.Join(errs...)
}

// endpoint is where a route of ours sends to, outside of a tunnel; not valid for WireGuard, which knows it itself.
func endpoint(w rtnl.Route, l rtnl.Link, ways map[int]way) netip.Addr {
	if w.Encap.Dst.IsValid() {
		return w.Encap.Dst
	}
	switch t := l.Tunnel().(type) {
	case rtnl.WireGuard, rtnl.Geneve:
		return netip.Addr{}
	case rtnl.VXLAN:
		return ways[w.Link].ends[ways[w.Link].macs[w.Via]]
	case rtnl.GRE:
		return t.Remote
	case rtnl.IPTunnel:
		if t.Remote.IsValid() {
			return t.Remote
		}
		if b := w.Via.As16(); w.Via.Is6() && t.Type == "sit" { // ::a.b.c.d
			return netip.AddrFrom4([4]byte(b[12:]))
		}
	}
	return w.Via
}

// readWay reads the neighbours and the FDB of a VXLAN device; nodes of a network with one subnet have no more than that.
func (r *reader) readWay(d *Device) (way, error) {
	w := way{map[netip.Addr]inet.MAC{}, map[inet.MAC]netip.Addr{}}
	neighs, err := r.c.Neighs(d.Index)
	for _, n := range neighs {
		w.macs[n.IP] = n.MAC
	}
	fdbs, err2 := r.c.FDBs(d.Index)
	for _, f := range fdbs {
		switch {
		case !f.Dst.IsValid():
		case f.MAC == inet.MAC{}:
			r.peer(r.networkOf(d.Name), d.Name, f.Dst)
		default:
			w.ends[f.MAC] = f.Dst
		}
	}
	return w, errors.Join(err, err2)
}

func (r *reader) readWireGuard(ctx context.Context, d *Device) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dev, err := wg.Read(ctx, r.NS, d.Name)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil // links and routes can be read by everybody
	}
	if err != nil {
		return err
	}
	d.Detail = udpPort(int(dev.Port))
	for _, p := range dev.Peers {
		r.n.Peers = append(r.n.Peers, Peer{Network: r.networkOf(d.Name), Device: d.Name, Endpoint: p.Endpoint.Addr(),
			Pods: append([]netip.Prefix{}, p.AllowedIPs...)})
	}
	return nil
}

// peer is the one at an endpoint, that is known already or new.
func (r *reader) peer(network, device string, end netip.Addr) *Peer {
	key := peerKey{network, device, end}
	i, ok := r.peers[key]
	if !ok {
		i = len(r.n.Peers)
		r.peers[key] = i
		r.n.Peers = append(r.n.Peers, Peer{Network: network, Device: device, Endpoint: end, Pods: []netip.Prefix{}})
	}
	return &r.n.Peers[i]
}

type peerKey struct {
	network, device string
	end             netip.Addr
}

// local notes an address of this node from which a tunnel sends, and the device that bears it.
func (r *reader) local(index int, a netip.Addr) {
	for i := range r.n.Devices {
		d := &r.n.Devices[i]
		if d.Index != index || slices.Contains(d.Local, a) {
			continue
		}
		d.Local = append(d.Local, a)
		for _, have := range r.addrs {
			l := r.link(have.Link)
			if have.Prefix.Addr() == a && l.Flags&unix.IFF_LOOPBACK == 0 && !slices.Contains(d.Over, l.Name) {
				d.Over = append(d.Over, l.Name)
			}
		}
	}
}

// readTunnels notes from where tunnels send, whosever they are.
func (r *reader) readTunnels() {
	for _, d := range slices.Clone(r.n.Devices) {
		l := r.link(d.Index)
		var from netip.Addr
		lower := 0
		switch t := l.Tunnel().(type) {
		case rtnl.VXLAN:
			from, lower = t.Local, t.Link
		case rtnl.GRE:
			from, lower = t.Local, l.Peer
		case rtnl.IPTunnel:
			from, lower = t.Local, l.Peer
		}
		if from.IsValid() && !from.IsUnspecified() {
			r.local(d.Index, from)
		}
		if name := r.link(lower).Name; lower != 0 && name != "" {
			i := slices.IndexFunc(r.n.Devices, func(o Device) bool { return o.Index == d.Index })
			r.n.Devices[i].Over = []string{name}
		}
	}
}
