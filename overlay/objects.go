//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/reconcile"
)

const (
	mainTable = unix.RT_TABLE_MAIN
	linkScope = unix.RT_SCOPE_LINK
)

// plan is what a peer needs in the kernel.
type plan struct {
	reconcile.Lists
	tunnel []tunnelPeer
	mtu    int // for pods on the way to it
}

func (p *plan) clear() {
	p.Lists.Clear()
	p.tunnel = p.tunnel[:0]
}

// objects are what is wanted in the kernel for all peers.
type objects struct {
	reconcile.Objects
	tunnel *reconcile.Table[peerKey, tunnelPeer]
}

func newObjects(peers int) objects {
	return objects{reconcile.NewObjects(peers), reconcile.NewTable(0, keyOfTunnel, hashTunnel)}
}

func (o objects) put(p *plan) {
	o.Put(&p.Lists)
	o.tunnel.PutAll(p.tunnel)
}

// tunneler is a driver with state that rtnetlink does not hold.
type tunneler interface {
	readTunnel(ctx context.Context, s *site) (peers []tunnelPeer, right bool, err error) // right: the device itself
	applyTunnel(ctx context.Context, s *site, c *changes) error
}

// kernel is what is there.
type kernel struct {
	reconcile.Lists
	tunnel      []tunnelPeer
	tunnelWrong bool // the device of the tunnel peers
}

// changes are the difference between wanted and present.
type changes struct {
	reconcile.Changes
	setTunnel, delTunnel []tunnelPeer
	tunnelDevice         bool
	wasTunnel            map[peerKey]tunnelPeer // what setTunnel replaces
}

func (c *changes) ofTunnel() bool { return c.tunnelDevice || len(c.setTunnel)+len(c.delTunnel) > 0 }

// words are the difference for a person.
func (c *changes) words(name func(int) string) []error {
	var tunnel []error
	if c.tunnelDevice {
		tunnel = append(tunnel, errors.New("the WireGuard device has another key or port"))
	}
	for _, t := range c.setTunnel {
		tunnel = append(tunnel, fmt.Errorf("%s is missing or different", t))
	}
	for _, t := range c.delTunnel {
		tunnel = append(tunnel, fmt.Errorf("%s is there and should not be", t))
	}
	return c.Words(name, tunnel...)
}
