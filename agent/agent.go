//go:build linux

// Package agent keeps one node of a pod network in step with its peers.
//
// An [Agent] learns from a [peer.Source] who the nodes are, takes a range for this one by a [peer.Registrar], and keeps the
// kernel as that demands: devices and routes (package overlay), SNAT (package masq), forwarding. What plugins need to know
// of the node it writes to the node file (package node). It mends at once what another program changes.
//
// What it needs to start while the store is down is on disk. When it ends everything stays as it is, so that traffic goes
// on; the next one writes to the kernel only what has changed.
//
// Out of scope: attaching pods, which plugins do, and removing a network, which 'cniblocks cleanup' does.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// Agent is one node's part in a network. NS, Network, Source and Layout are needed. It runs once. It is large since each field is
// one thing that its user may state.
type Agent struct {
	NS      *netns.NS // of the node
	Network string    // its name, as in the CNI configuration
	Name    string    // of this node; without a Registrar it may be empty, see [peer.Self]

	Source     peer.Source
	SourceName string // what [Status] calls it; without secrets

	// Registrar takes this node's ranges. nil: the Source states them, and this node is one of its peers.
	Registrar peer.Registrar

	// Expiry is when the ranges expire unless they are renewed, the zero Time if they do not; nil: they do not.
	Expiry func() time.Time
	Calls  func() uint64 // how many calls the store was sent, for the metrics; nil: not known

	// Layout tells how the network is built. It may ask the store, and waits for it until ctx is done.
	Layout func(ctx context.Context) (Layout, error)

	// Changed yields, until ctx is done, whether the network is described otherwise now than Layout found it; an error says
	// why the description cannot be used any more. The agent goes on as it began, and says that a restart would not; see
	// [Agent.FollowFlannel]. nil: nobody looks.
	Changed func(ctx context.Context) iter.Seq2[bool, error]

	Endpoints Endpoints // where this node's addresses come from; with a Registrar only
	SNAT      SNAT
	Adopt     bool // take over what flannel left, see [overlay.Options]; a running flanneld is refused

	StateDir string // until the next boot; "": [node.DefaultStateDir]
	DataDir  string // kept over reboots; "": [overlay.DefaultKeyDir]
	LeaseDir string // where host-local keeps the leases of all networks; "": /var/lib/cni/networks

	// SysctlDir is where the machine's /proc/sys/net can be written, if it is in another place, as in a container.
	SysctlDir string

	SubnetEnv string   // path of flannel's file, which the agent then writes; "": none
	Conflist  Conflist // what to put in place when all is ready

	Resync time.Duration // between two looks at everything; 0: 3 minutes
	Look   time.Duration // between two looks at what the kernel announces to nobody; 0: 2 s
	Grace  time.Duration // how long the store may take before the agent starts with what is on disk; 0: 1 s
	Buffer int           // bytes of the kernel that its announcements may wait in; 0: 32 MiB
	Log    *slog.Logger  // nil: none

	// Begin is called once no other agent of the network runs on this node, before the work begins; its error ends Run. What is
	// in the network's directory stays there from then on, such as a socket. nil: nobody.
	Begin func() error

	// Alive is called now and then by the loop that does the work, for a watchdog, with whether all is right; nil: nobody.
	Alive func(ready bool, what string)

	once sync.Once
	st   statusKeeper
}

// Layout is how a network is built. Its JSON is kept on disk.
type Layout struct {
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // of all pods; empty: the source states them
	Tunnels  []Tunnel       `json:"tunnels"`            // usually one
}

// Tunnel is an encapsulation and what it carries.
type Tunnel struct {
	overlay.Config
	Bridge   string        `json:"bridge,omitempty"`   // that an L2 tunnel is a port of
	Device   string        `json:"device,omitempty"`   // its name; "": made of the network's; needed if there are several
	Families []inet.Family `json:"families,omitempty"` // of pods; empty: both
	Underlay inet.Family   `json:"underlay,omitempty"` // 0: see [overlay.Options]
	MTU      int           `json:"mtu,omitempty"`      // bytes, for pods; 0: that of the paths
	Table    uint32        `json:"table,omitempty"`    // of the routes; 0: main
	Metric   uint32        `json:"metric,omitempty"`
}

// SNAT is how pods reach what lies outside of the network.
type SNAT struct {
	Families masq.Families
	Backend  string         // "nftables", "iptables"; "": see [masq.Open]
	Except   []netip.Prefix // destinations that see the pods' own addresses, beside the network itself
}

// Conflist is a configuration file for a container runtime, which takes the node for ready when it is there. It is copied
// after the first full apply, unless it is the same already. Both empty: none.
type Conflist struct{ From, To string }

func (a *Agent) check() error {
	if err := a.NS.Check(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	switch {
	case a.Source == nil || a.Layout == nil:
		return errors.New("agent: Source or Layout is nil: state both")
	case a.Network == "" || a.Network != filepath.Base(a.Network) || a.Network == "." || a.Network == "..":
		return fmt.Errorf("name of the network %q: want letters, digits, dot, dash and underscore", a.Network)
	case a.Registrar != nil && a.Name == "":
		return errors.New("agent: Name is empty: a store knows this node by it")
	case (a.Conflist.From == "") != (a.Conflist.To == ""):
		return fmt.Errorf("conflist-from is %q and conflist-to is %q: state both", a.Conflist.From, a.Conflist.To)
	}
	return nil
}

func (a *Agent) fill() {
	a.StateDir = cmp.Or(a.StateDir, node.DefaultStateDir)
	a.DataDir = cmp.Or(a.DataDir, overlay.DefaultKeyDir)
	a.LeaseDir = cmp.Or(a.LeaseDir, "/var/lib/cni/networks")
	a.Resync = cmp.Or(a.Resync, 3*time.Minute)
	a.Grace = cmp.Or(a.Grace, time.Second)
	a.Look = cmp.Or(a.Look, heartbeat)
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
}

// Run works until ctx is done, and returns nil then. An error says why it cannot start: bad input, a flanneld beside it.
// Trouble that may pass, with the store, the kernel or another program, is no error: it is tried again, and [Agent.Status]
// tells of it meanwhile.
func (a *Agent) Run(ctx context.Context) error {
	first := false
	a.once.Do(func() { first = true })
	if !first {
		return errors.New("agent: it ran before: make another Agent")
	}
	if err := a.check(); err != nil {
		return err
	}
	a.fill()
	if a.Registrar != nil {
		if err := noFlanneld(a.NS); err != nil {
			return err
		}
	}
	unlock, err := a.singleton(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	defer unlock()
	if a.Begin != nil {
		if err := a.Begin(); err != nil {
			return err
		}
	}
	r, err := newRunner(a)
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(ctx)
}
