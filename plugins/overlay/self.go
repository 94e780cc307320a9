package overlay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

// view is what is known of the network and of this machine in it.
type view struct {
	self     peer.Peer
	prefixes []netip.Prefix // of the network
	id       string         // identity of the list; empty if the agent keeps it
	agent    bool           // the node agent keeps the peers
	mtu      int            // as the agent says
	load     func() ([]peer.Peer, error)
}

// source is what the note of this machine was made from.
type source struct {
	ID   file.ID `json:"id"`
	Node string  `json:"node"`
}

// look finds out which peer this machine is. With a peers file that has not changed that is one stat(2) and a small file
// of our own, however many peers there are.
func (c *conf) look(r *cni.Request, ns *netns.NS) (view, error) {
	switch {
	case c.Peers != nil:
		n, problems, err := peer.Decode(c.Prefixes, c.Peers)
		if err != nil {
			return view{}, cni.Errorf(cni.ErrConfig, "netconf: %w", err)
		}
		sum := sha256.Sum256(append(slices.Clone(c.Peers), c.Prefixes...))
		return c.viewOf(r, ns, n, problems, hex.EncodeToString(sum[:]))
	case c.PeersFile != "":
		return c.lookFile(r, ns)
	}
	return c.lookAgent(r, ns)
}

func (c *conf) note(r *cni.Request, agent bool) string {
	name := "node.json"
	if r.Type == typeHostGW && !agent {
		name = "host-gw.json" // an overlay of the same network may stand above, with other peers
	}
	return filepath.Join(node.Dir(c.StateDir, r.Network), name)
}

func (c *conf) lookFile(r *cni.Request, ns *netns.NS) (view, error) {
	if c.Prefixes != nil {
		r.Warn(`netconf: key "network" counts only beside "peers"; that of %s is used`, c.PeersFile)
	}
	note := c.note(r, false)
	if f, err := node.Read(ns, note); err == nil && !f.Agent {
		var s source
		if lazyjson.Unmarshal([]byte(f.Source), &s) == nil && s.Node == c.Node {
			now, same, err := s.ID.Same(c.PeersFile)
			if err == nil && same {
				if now != s.ID {
					_ = c.writeNote(ns, note, now, f.Self, f.Network.Prefixes)
				}
				return view{self: f.Self, prefixes: f.Network.Prefixes, id: c.listID(s.ID), load: c.loader()}, nil
			}
		}
	}
	doc, err := file.Load(c.PeersFile)
	if err != nil {
		return view{}, cni.Errorf(cni.ErrConfig, `netconf: key "peersFile": %w`, err)
	}
	v, err := c.viewOf(r, ns, doc.Network, doc.Problems, c.listID(doc.ID))
	if err != nil {
		return v, err
	}
	v.load = c.loader()
	return v, c.writeNote(ns, note, doc.ID, v.self, v.prefixes)
}

func (c *conf) listID(id file.ID) string { return id.Hash.String() + " " + c.Node }

func (c *conf) loader() func() ([]peer.Peer, error) {
	return func() ([]peer.Peer, error) {
		doc, err := file.Load(c.PeersFile)
		return doc.Peers, err
	}
}

func (c *conf) writeNote(ns *netns.NS, path string, id file.ID, self peer.Peer, prefixes []netip.Prefix) error {
	b, err := lazyjson.Marshal(source{id, c.Node})
	if err != nil {
		return err
	}
	return node.Write(ns, path, node.File{Self: self, Network: peer.Network{Prefixes: prefixes}, Source: string(b)})
}

// lookAgent takes what the node agent wrote.
func (c *conf) lookAgent(r *cni.Request, ns *netns.NS) (view, error) {
	path := c.note(r, true)
	f, err := node.Read(ns, path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !f.Agent {
		return view{}, cni.Errorf(cni.ErrTryAgain, `netconf: neither "peersFile" nor "peers" is stated, and the node agent has not written %s yet; `+
			"start 'cniblocks agent', or state one of the keys", path)
	}
	if err != nil {
		return view{}, err
	}
	if f.Blocked != "" && (r.Verb == cni.ADD || r.Verb == cni.STATUS) {
		return view{}, cni.Errorf(cni.ErrTryAgain, "the node agent attaches no pods now: %s", f.Blocked)
	}
	return view{self: f.Self, prefixes: f.Network.Prefixes, agent: true, mtu: f.MTU}, nil
}

func (c *conf) viewOf(r *cni.Request, ns *netns.NS, n peer.Network, problems peer.Problems, id string) (view, error) {
	for _, p := range problems {
		r.Warn("%s", warning(p))
	}
	host, _ := os.Hostname()
	var unread error
	self, err := peer.Self(n.Peers, c.Node, local(ns, &unread), host)
	if unread != nil {
		return view{}, fmt.Errorf("which peer is this machine? Its addresses cannot be read: %w", unread)
	}
	if err != nil {
		return view{}, cni.Errorf(cni.ErrConfig, "netconf: %w", err)
	}
	if len(n.Prefixes) == 0 {
		for _, p := range n.Peers {
			n.Prefixes = append(n.Prefixes, p.Pods...)
		}
		if len(n.Prefixes) > peer.MaxPrefixes {
			return view{}, cni.Errorf(cni.ErrConfig, `peers: key "network" is missing, and %d ranges are too many to do without; want the prefixes that hold them all`, len(n.Prefixes))
		}
	}
	return view{self: self, prefixes: n.Prefixes, id: id, load: func() ([]peer.Peer, error) { return n.Peers, nil }}, nil
}

func warning(p *peer.Problem) string { return "peers: " + p.Error() }

// local yields the addresses of ns, or none and an error.
func local(ns *netns.NS, unread *error) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		c, err := rtnl.Open(ns)
		var addrs []rtnl.Addr
		if err == nil {
			addrs, err = c.Addrs(0)
		}
		*unread = err
		for _, a := range addrs {
			if !a.Prefix.Addr().IsLoopback() && !yield(a.Prefix.Addr()) {
				return
			}
		}
	}
}

var errNoRange = errors.New("it has no range of pods")

// ranges are this machine's own.
func (v view) ranges() ([]netip.Prefix, error) {
	if len(v.self.Pods) == 0 {
		return nil, cni.Errorf(cni.ErrConfig, "peers: %q is this machine, and %w: state \"pods\"", v.self.Name, errNoRange)
	}
	return v.self.Pods, nil
}

func (v view) String() string { return fmt.Sprintf("peer %q", v.self.Name) }
