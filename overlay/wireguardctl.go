//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/wg"
)

// wireguardPatience is how long the kernel may take for a whole list of peers.
const wireguardPatience = 30 * time.Second

// readTunnel lists the peers of the device, and tells whether its key and port are right.
func (w *wireguard) readTunnel(ctx context.Context, s *site) (peers []tunnelPeer, right bool, err error) {
	name := s.links.wanted[0].name
	if _, ok := s.links.index[name]; !ok {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wireguardPatience)
	defer cancel()
	d, err := wg.Read(ctx, w.o.NS, name)
	if err != nil {
		return nil, false, err
	}
	peers = make([]tunnelPeer, 0, len(d.Peers))
	for _, p := range d.Peers {
		peers = append(peers, tunnelPeer{key: p.PublicKey, end: p.Endpoint, keepalive: time.Duration(p.Keepalive) * time.Second, allowed: rangeList(p.AllowedIPs)})
	}
	return peers, d.PrivateKey == w.key && d.Port == w.Port, nil
}

// applyTunnel writes peers. An allowed IP belongs to one peer, and the last writer takes it: so those that gain ranges
// come first, then those that lose some, and those that leave last, which then take nothing with them.
func (w *wireguard) applyTunnel(ctx context.Context, s *site, c *changes) error {
	var gain, lose, leave []wg.Change
	for _, t := range c.setTunnel {
		was, there := c.wasTunnel[t.key]
		p := wg.Change{Peer: wg.Peer{PublicKey: t.key, Endpoint: t.end, Keepalive: uint16(t.keepalive / time.Second), AllowedIPs: t.ranges()}}
		if there && !was.within(t) {
			p.Replace = true
			lose = append(lose, p)
		} else {
			gain = append(gain, p)
		}
	}
	for _, t := range c.delTunnel {
		leave = append(leave, wg.Change{Peer: wg.Peer{PublicKey: t.key}, Remove: true})
	}
	cfg := wg.Config{Peers: slices.Concat(gain, lose, leave)}
	if c.tunnelDevice {
		key := wg.Key(w.key)
		cfg.PrivateKey, cfg.Port = &key, &w.Port
	}
	ctx, cancel := context.WithTimeout(ctx, wireguardPatience)
	defer cancel()
	err := wg.Set(ctx, w.o.NS, s.links.wanted[0].name, cfg)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is taken; 'ss -lun' shows by whom; state another \"port\": %w", w.Port, err)
	}
	return err
}
