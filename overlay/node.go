//go:build linux

package overlay

import (
	"context"
	"errors"
	"sync"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// Node is this machine's part of an overlay network. It implements [Network].
//
// It remembers what it applied last, so that a Set with few changes costs only those. A new process remembers nothing and
// compares with the kernel.
type Node struct {
	encap Encap

	mu      sync.Mutex
	conn    *rtnl.Conn
	state   stateDir
	site    site
	want    objects // by the last plans
	survey  survey  // what they found
	widths  widths
	refused []error // what the last full pass ended with
	applied bool    // the kernel held want after our last write
	amiss   bool    // the last pass failed, so that what changes may mend it
}

var _ Network = (*Node)(nil)

// widths are the MTU for pods, in bytes, and whether a path decides it that is narrower than this node's own links.
type widths struct {
	mtu      int
	narrowed bool
}

func (n *Node) open() (err error) {
	if n.conn == nil {
		n.conn, err = rtnl.Open(n.site.o.NS)
		n.site.kernel = n.conn
	}
	return err
}

// forget makes the next Set compare with the kernel.
func (n *Node) forget() { n.applied = false }

func (n *Node) reset() {
	n.forget()
	n.want, n.survey, n.refused = newObjects(0), survey{}, nil
	n.site.links, n.site.members.claims, n.site.under = linkSet{}, nil, nil
}

// Ensure implements [Network].
func (n *Node) Ensure(ctx context.Context) (Self, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.full(ctx); err != nil && OnlyRefused(err) == nil {
		return Self{}, err
	}
	s := &n.site
	r, err := s.d.reach(s)
	if err != nil {
		return Self{}, err
	}
	self := Self{Reach: r, Addrs: s.o.Node.NodeAddrs(), MTU: n.widths.mtu}
	for _, d := range s.links.wanted {
		self.Devices = append(self.Devices, d.name)
	}
	return self, nil
}

// Set implements [Network].
func (n *Node) Set(ctx context.Context, peers []peer.Peer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.applied {
		steps, ok := n.site.members.difference(peers)
		if ok && len(steps) == 0 {
			return errors.Join(n.refused...)
		}
		if ok && len(n.refused) == 0 {
			if done, err := n.step(ctx, steps); done {
				return err
			}
		}
	}
	n.take(peers)
	return n.full(ctx)
}

// Want implements [Network].
func (n *Node) Want(peers []peer.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.take(peers)
	n.forget()
}

func (n *Node) take(peers []peer.Peer) {
	n.site.members.take(peers)
	n.site.under = nil
}

// Repair implements [Network].
func (n *Node) Repair(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.full(ctx)
}

// full compares the kernel with the list and applies the difference, alone of all processes of this machine.
func (n *Node) full(ctx context.Context) error {
	unlock, err := n.state.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return n.run(ctx)
}

// run is full for who holds the lock.
func (n *Node) run(ctx context.Context) error {
	n.amiss = true
	p := n.begin()
	defer p.end()
	if err := p.compare(ctx, p.ensureDevices); err != nil {
		n.forget()
		return err
	}
	if err := n.apply(ctx, &p.changes); err != nil {
		return errors.Join(append([]error{err}, p.rejected...)...)
	}
	if err := n.survey.cutOff(n.site.o.Network); err != nil {
		n.forget()
		return err
	}
	n.amiss, n.applied = false, n.site.members.list != nil
	n.refused = p.rejected
	return errors.Join(p.rejected...)
}

// Check implements [Network].
func (n *Node) Check(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.begin()
	defer p.end()
	if err := p.compare(ctx, p.checkDevices); err != nil {
		return err
	}
	return errors.Join(append(append(p.changes.words(names(p.links)), n.survey.cutOff(n.site.o.Network)), p.rejected...)...)
}

// apply writes the difference, what is new before what goes.
func (n *Node) apply(ctx context.Context, c *changes) (err error) {
	if c.Empty() && !c.ofTunnel() {
		return nil
	}
	defer func() {
		if err != nil {
			n.forget()
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.state.dropStamp(); err != nil {
		return err
	}
	return c.Apply(n.conn, func() error {
		if t, ok := n.site.d.(tunneler); ok && c.ofTunnel() {
			return t.applyTunnel(ctx, &n.site, c)
		}
		return nil
	})
}

// MTU implements [Network].
func (n *Node) MTU(p peer.Peer) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.Name == "" && len(p.Pods) == 0 || n.site.under == nil {
		return n.widths.mtu
	}
	mtu, _ := n.site.path(&p)
	return mtu
}
