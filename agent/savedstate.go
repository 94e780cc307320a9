//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/peer"
)

// snapshot is what an agent needs to start while the store is down: <dataDir>/<network>/peers.json. It holds no secrets.
type snapshot struct {
	Layout *Layout        `json:"layout,omitempty"`
	Self   *peer.Peer     `json:"self,omitempty"`
	Former []netip.Prefix `json:"former,omitempty"` // ranges that pods of this boot may still have
	Boot   string         `json:"boot,omitempty"`
}

// wholeSnapshot is the file: with the last good list, and the prefixes that the source stated.
type wholeSnapshot struct {
	snapshot
	Network json.RawMessage `json:"network,omitempty"`
}

// savedState is the snapshot that an earlier agent left, and whether another is due.
type savedState struct {
	snapshot
	boot  string // this one
	dirty bool
}

func (c *core) savedFile() string { return filepath.Join(c.DataDir, c.Network, "peers.json") }

// recall reads the file. One that is damaged is none.
func (c *core) recall() {
	b, err := os.ReadFile(c.savedFile())
	if err == nil {
		err = json.Unmarshal(b, &c.saved.snapshot)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		c.saved.snapshot = snapshot{}
		c.log.Warn("what an earlier agent left cannot be used", "file", c.savedFile(), "error", err)
	case c.saved.Boot == c.saved.boot:
		c.former = c.saved.Former
	}
}

// useSaved fills in what the store has not told in time, and reports whether it could.
func (c *core) useSaved() bool {
	m := c.saved.snapshot
	if c.layout != nil && c.self != nil && c.list != nil || m.Layout == nil || m.Self == nil {
		return false
	}
	last, err := c.lastNetwork()
	if err != nil {
		c.log.Warn("what an earlier agent left cannot be used", "file", c.savedFile(), "error", err)
		return false
	}
	c.log.Warn("the store does not answer; the node starts with what is on disk", "file", c.savedFile(), "peers", len(last.Peers))
	if c.layout == nil {
		c.layout = m.Layout
	}
	if c.list == nil {
		c.list, c.prefixes = last.Peers, last.Prefixes
		c.st.fromDisk(true)
	}
	if c.self == nil {
		c.become(c.placed(*m.Self))
	}
	c.due.set = true
	return true
}

// lastNetwork is the part of the file that is large, and mostly not needed.
func (c *core) lastNetwork() (last peer.Network, err error) {
	b, err := os.ReadFile(c.savedFile())
	if err != nil {
		return last, err
	}
	var m wholeSnapshot
	if err := json.Unmarshal(b, &m); err != nil {
		return last, err
	}
	if m.Network == nil {
		return last, errors.New("no list of peers is in it")
	}
	last, _, err = peer.Parse(m.Network) // one peer that an earlier version took is no reason to do without all
	return last, err
}

// saveNow writes the file in one step.
func (c *core) saveNow() {
	if !c.saved.dirty || c.self == nil || c.list == nil || c.layout == nil {
		return
	}
	b, err := json.Marshal(snapshot{Layout: c.layout, Self: c.self, Former: c.former, Boot: c.saved.boot})
	if err == nil {
		list := peer.Format(peer.Network{Prefixes: c.prefixes, Peers: c.list}) // large, and not copied once more
		err = replace(c.savedFile(), 0o600, b[:len(b)-1], []byte(`,"network":`), list, []byte("}"))
	}
	if err != nil {
		c.log.Error("what the next agent would start with is not saved", "error", err)
		return
	}
	c.saved.dirty = false
}

// replace puts a file in place in one step, and on the disk before that, and makes its directory.
func replace(path string, mode fs.FileMode, parts ...[]byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Only one agent runs for a network, and what a killed one left goes with the next.
	by := path + ".new"
	if err := os.Remove(by); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.OpenFile(by, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	for _, b := range parts {
		if _, err = tmp.Write(b); err != nil {
			break
		}
	}
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
