//go:build linux

package overlay

import "github.com/cniblocks/cniblocks/peer"

// peerKey tells WireGuard peers of one node apart.
type peerKey = peer.PublicKey

// tunnelPeer is a peer of a WireGuard device.
type tunnelPeer struct {
	key peerKey
}

func keyOfTunnel(t tunnelPeer) peerKey { return t.key }

func (t tunnelPeer) holds(want tunnelPeer) bool { return t == want }

var judgeTunnel = judge[peerKey, tunnelPeer]{
	ours:     func(tunnelPeer) bool { return true },
	same:     func(h, w tunnelPeer) bool { return h == w },
	replaces: func(h, w tunnelPeer) bool { return true },
	conflict: func(h, w tunnelPeer) {},
}

func (n *Node) readTunnel() ([]tunnelPeer, error) { return nil, nil }

func (n *Node) applyTunnel(set, remove []tunnelPeer) error { return nil }
