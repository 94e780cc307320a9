//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/cniblocks/cniblocks/peer"
)

type ctlKey struct{}

// ctl is the process's socket in the namespace.
func (w *wireguard) ctl() (*wgctrl.Client, error) {
	c, err := w.o.NS.Keep(ctlKey{}, func() (c io.Closer, err error) {
		err = w.o.NS.Do(func() error {
			c, err = wgctrl.New()
			return err
		})
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("open the control socket of WireGuard: %w", err)
	}
	return c.(*wgctrl.Client), nil
}

// readTunnel lists the peers of the device, and tells whether its key and port are right.
func (w *wireguard) readTunnel(n *Node) (peers []tunnelPeer, right bool, err error) {
	name := n.devices[0].name
	if _, ok := n.links[name]; !ok {
		return nil, false, nil
	}
	c, err := w.ctl()
	if err != nil {
		return nil, false, err
	}
	d, err := c.Device(name)
	if err != nil {
		return nil, false, fmt.Errorf("read WireGuard device %s: %w", name, err)
	}
	peers = make([]tunnelPeer, 0, len(d.Peers))
	for _, p := range d.Peers {
		peers = append(peers, seen(p))
	}
	return peers, d.PrivateKey == wgtypes.Key(w.key) && d.ListenPort == int(w.Port), nil
}

func seen(p wgtypes.Peer) tunnelPeer {
	t := tunnelPeer{key: peer.PublicKey(p.PublicKey), keepalive: p.PersistentKeepaliveInterval}
	if p.Endpoint != nil {
		at := p.Endpoint.AddrPort()
		t.end = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	var ranges []netip.Prefix
	for _, r := range p.AllowedIPs {
		if a, ok := netip.AddrFromSlice(r.IP); ok {
			bits, _ := r.Mask.Size()
			ranges = append(ranges, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	t.allowed = rangeList(ranges)
	return t
}

// applyTunnel writes peers. An allowed IP belongs to one peer, and the last writer takes it: so those that gain ranges
// come first, then those that lose some, and those that leave last, which then take nothing with them.
func (w *wireguard) applyTunnel(n *Node, c *changes) error {
	ctl, err := w.ctl()
	if err != nil {
		return err
	}
	var gain, lose, leave []wgtypes.PeerConfig
	for _, t := range c.setTunnel {
		was, there := c.wasTunnel[t.key]
		p := config(t)
		if there && !was.within(t) {
			p.ReplaceAllowedIPs = true
			lose = append(lose, p)
		} else {
			gain = append(gain, p)
		}
	}
	for _, t := range c.delTunnel {
		leave = append(leave, wgtypes.PeerConfig{PublicKey: wgtypes.Key(t.key), Remove: true, UpdateOnly: true})
	}
	cfg := wgtypes.Config{Peers: slices.Concat(gain, lose, leave)}
	if c.tunnelDevice {
		key, port := wgtypes.Key(w.key), int(w.Port)
		cfg.PrivateKey, cfg.ListenPort = &key, &port
	}
	if err := ctl.ConfigureDevice(n.devices[0].name, cfg); err != nil {
		if errors.Is(err, errInUse) {
			return fmt.Errorf("WireGuard device %s: UDP port %d is taken; 'ss -lun' shows by whom; state another \"port\": %w", n.devices[0].name, w.Port, err)
		}
		return fmt.Errorf("configure WireGuard device %s: %w", n.devices[0].name, err)
	}
	return nil
}

func config(t tunnelPeer) wgtypes.PeerConfig {
	p := wgtypes.PeerConfig{PublicKey: wgtypes.Key(t.key), PersistentKeepaliveInterval: new(time.Duration)}
	*p.PersistentKeepaliveInterval = t.keepalive
	if t.end.IsValid() {
		p.Endpoint = net.UDPAddrFromAddrPort(t.end)
	}
	for _, r := range t.ranges() {
		p.AllowedIPs = append(p.AllowedIPs, net.IPNet{IP: r.Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())})
	}
	return p
}
