//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/cniblocks/cniblocks/peer"
)

// wireguardPatience is how long the kernel may take for a whole list of peers.
const wireguardPatience = 30 * time.Second

// control calls f with a control socket in the namespace that serves only once: a call of the library that was interrupted
// (EINTR) waits for an event of its socket that does not come, and is then left to itself.
func (w *wireguard) control(f func(*wgctrl.Client) error) error {
	done := make(chan error, 1)
	go func() {
		var c *wgctrl.Client
		err := w.o.NS.Do(func() (err error) {
			c, err = wgctrl.New()
			return err
		})
		if err != nil {
			done <- fmt.Errorf("open the control socket of WireGuard: %w", err)
			return
		}
		defer c.Close()
		done <- f(c)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(wireguardPatience):
		return fmt.Errorf("the kernel's WireGuard has not answered for %s", wireguardPatience)
	}
}

// readTunnel lists the peers of the device, and tells whether its key and port are right.
func (w *wireguard) readTunnel(n *Node) (peers []tunnelPeer, right bool, err error) {
	name := n.devices[0].name
	if _, ok := n.links[name]; !ok {
		return nil, false, nil
	}
	var d *wgtypes.Device
	err = w.control(func(c *wgctrl.Client) (err error) {
		d, err = c.Device(name)
		return err
	})
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
	name := n.devices[0].name
	err := w.control(func(ctl *wgctrl.Client) error { return ctl.ConfigureDevice(name, cfg) })
	if err != nil {
		if errors.Is(err, errInUse) {
			return fmt.Errorf("WireGuard device %s: UDP port %d is taken; 'ss -lun' shows by whom; state another \"port\": %w", name, w.Port, err)
		}
		return fmt.Errorf("configure WireGuard device %s: %w", name, err)
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
