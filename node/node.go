//go:build linux

// Package node is the file by which the plugins of a machine know which peer it is: <stateDir>/<network>/node.json.
//
// The node agent writes it; without an agent the plugins write it themselves, so that an ADD need not read a list of
// thousands of peers to find its own. It counts only in the boot and the network namespace that it was written in.
package node

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"

	machine "github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer"
)

// DefaultStateDir is where the files of all networks are.
const DefaultStateDir = "/run/cniblocks"

// maxSize bounds the file; it has one peer and the prefixes of the network.
const maxSize = 1 << 20

// File is what a machine knows of itself in a network.
type File struct {
	Self    peer.Peer    // this machine
	Network peer.Network // its prefixes; the peers are left out
	MTU     int          // bytes, for pods; 0 is not known
	Source  string       // what it was made from: an identity that the writer compares
	Agent   bool         // the node agent wrote it, and keeps the peers: plugins leave them alone
	IPMasq  bool         // the agent masquerades what leaves the network: nobody else has to
	Blocked string       // why no pod may be attached now, as the agent says; "" nothing speaks against it
}

type wire struct {
	Boot     string          `json:"boot"`
	Cookie   uint64          `json:"cookie"`
	Document json.RawMessage `json:"document"`
	MTU      int             `json:"mtu,omitempty"`
	Source   string          `json:"source,omitempty"`
	Agent    bool            `json:"agent,omitempty"`
	IPMasq   bool            `json:"ipMasq,omitempty"`
	Blocked  string          `json:"blocked,omitempty"`
}

// Dir is where a network's files are; an empty stateDir is [DefaultStateDir].
func Dir(stateDir, network string) string {
	if stateDir == "" {
		stateDir = DefaultStateDir
	}
	return filepath.Join(stateDir, network)
}

// Read returns what is known of this machine in ns. No such file, one of an earlier boot, of another namespace or of no
// sense is [io/fs.ErrNotExist].
func Read(ns *netns.NS, path string) (f File, err error) {
	b, err := ReadFile(path, maxSize)
	if errors.Is(err, fs.ErrInvalid) {
		return f, sentinel.Errorf(fs.ErrNotExist, "%w", err)
	}
	if err != nil {
		return f, err
	}
	var w wire
	if err := lazyjson.Unmarshal(b, &w); err != nil {
		return f, sentinel.Errorf(fs.ErrNotExist, "%s is torn", path)
	}
	boot, cookie, err := here(ns)
	if err != nil {
		return f, err
	}
	if w.Boot != boot || w.Cookie != cookie {
		return f, sentinel.Errorf(fs.ErrNotExist, "%s is of another boot or namespace", path)
	}
	n, _, err := peer.Parse(w.Document)
	if err != nil {
		return f, sentinel.Errorf(fs.ErrNotExist, "%s names no node: %w", path, err)
	}
	if len(n.Peers) != 1 {
		return f, sentinel.Errorf(fs.ErrNotExist, "%s names %d nodes; want one", path, len(n.Peers))
	}
	f = File{Self: n.Peers[0], Network: peer.Network{Prefixes: n.Prefixes}, MTU: w.MTU, Source: w.Source, Agent: w.Agent, IPMasq: w.IPMasq, Blocked: w.Blocked}
	return f, nil
}

// Write replaces the file in one step, and makes its directory, see [OpenDir].
func Write(ns *netns.NS, path string, f File) error {
	boot, cookie, err := here(ns)
	if err != nil {
		return err
	}
	b, err := lazyjson.Marshal(wire{Boot: boot, Cookie: cookie, MTU: f.MTU, Source: f.Source, Agent: f.Agent, IPMasq: f.IPMasq, Blocked: f.Blocked,
		Document: peer.Format(peer.Network{Prefixes: f.Network.Prefixes, Peers: []peer.Peer{f.Self}})})
	if err != nil {
		return err
	}
	network := filepath.Dir(path)
	dir, err := OpenDir(filepath.Dir(network), filepath.Base(network))
	if err != nil {
		return err
	}
	defer dir.Close()
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	// One name for all, so that what a killed writer left goes with the next.
	return Replace(dir, filepath.Base(path), filepath.Base(path)+".new", b, 0o644)
}

func here(ns *netns.NS) (boot string, cookie uint64, err error) {
	if boot, err = machine.ID(); err == nil {
		cookie, err = ns.Cookie()
	}
	return boot, cookie, err
}
