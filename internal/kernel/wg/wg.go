//go:build linux

// Package wg reads and changes WireGuard devices, over generic netlink (linux/wireguard.h, genetlink in the kernel's
// documentation). Making the device, and everything else that rtnetlink knows, is out of scope.
//
// Each call opens a socket in the namespace and closes it again. A refusal by the kernel is an [rtnl.Error]: a device that
// is not there is [io/fs.ErrNotExist], and so is the whole family where the kernel has no WireGuard.
package wg

import (
	"context"
	"net/netip"

	"github.com/cniblocks/cniblocks/netns"
)

// Key is a key of Curve25519.
type Key = [32]byte

// Device is a WireGuard device.
type Device struct {
	PrivateKey Key
	Port       uint16 // UDP
	Peers      []Peer
}

// Peer is one of a device.
type Peer struct {
	PublicKey  Key
	Endpoint   netip.AddrPort // the zero value is not known
	Keepalive  uint16         // seconds; 0 is none
	AllowedIPs []netip.Prefix
}

// Change is what is to be done with a peer. Without a flag it is added if it is not there, and gets the allowed IPs beside
// those that it has, and the endpoint if that is known.
type Change struct {
	Peer
	Replace bool // the allowed IPs are all that it is to have
	Remove  bool // remove it; one that is not there is passed over
}

// Config is a change of a device. Nil fields stay as they are.
type Config struct {
	PrivateKey *Key
	Port       *uint16
	Peers      []Change
}

// Read returns the device of that name.
func Read(ctx context.Context, ns *netns.NS, name string) (Device, error) {
	c, err := dial(ctx, ns)
	if err != nil {
		return Device{}, err
	}
	defer c.close()
	return c.read(ctx, name)
}

// Set changes the device of that name, in the order of the peers: an allowed IP belongs to the peer that got it last. What
// is more than one message holds goes in several; if one fails the kernel has carried out those before it.
func Set(ctx context.Context, ns *netns.NS, name string, cfg Config) error {
	c, err := dial(ctx, ns)
	if err != nil {
		return err
	}
	defer c.close()
	return messages(name, cfg, func(attrs []byte) error {
		return c.ask(ctx, "change WireGuard device "+name, c.family, 0, setDevice, attrs, nil)
	})
}

func (c *conn) read(ctx context.Context, name string) (d Device, err error) {
	const retries = 20
	for try := 0; ; try++ {
		d = Device{}
		err = c.ask(ctx, "read WireGuard device "+name, c.family, flagDump, getDevice, appendString(nil, deviceName, name), d.merge)
		if err != errInterrupted || try == retries {
			return d, err
		}
	}
}
