//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// memory is what an agent needs to start while the store is down: <dataDir>/<network>/peers.json. It holds no secrets.
type memory struct {
	Layout *Layout        `json:"layout,omitempty"`
	Self   *peer.Peer     `json:"self,omitempty"`
	Former []netip.Prefix `json:"former,omitempty"` // ranges that pods of this boot may still have
	Boot   string         `json:"boot,omitempty"`
}

// recollection is the whole file: with the last good list, and the prefixes that the source stated.
type recollection struct {
	memory
	Network json.RawMessage `json:"network,omitempty"`
}

// saved is how the file and the state relate.
type saved struct {
	dirty bool
	at    time.Time
}

func (r *runner) memoryFile() string { return filepath.Join(r.DataDir, r.Network, "peers.json") }

// recall reads the file. One that is damaged is none.
func (r *runner) recall() {
	b, err := os.ReadFile(r.memoryFile())
	if err == nil {
		err = json.Unmarshal(b, &r.memory)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.memory = memory{}
		r.log.Warn("what an earlier agent left cannot be used", "file", r.memoryFile(), "error", err)
	case r.memory.Boot == r.boot:
		r.former = r.memory.Former
	}
}

// useMemory fills in what the store has not told in time, and reports whether it could.
func (r *runner) useMemory() bool {
	m := r.memory
	if r.layout != nil && r.self != nil && r.list != nil || m.Layout == nil || m.Self == nil {
		return false
	}
	last, err := r.lastNetwork()
	if err != nil {
		r.log.Warn("what an earlier agent left cannot be used", "file", r.memoryFile(), "error", err)
		return false
	}
	r.log.Warn("the store does not answer; the node starts with what is on disk", "file", r.memoryFile(), "peers", len(last.Peers))
	if r.layout == nil {
		r.layout = m.Layout
	}
	if r.list == nil {
		r.list, r.prefixes = last.Peers, last.Prefixes
		r.st.fromDisk(true)
	}
	if r.self == nil {
		r.become(r.placed(*m.Self))
	}
	r.due.set = true
	return true
}

// lastNetwork is the part of the file that is large, and mostly not needed.
func (r *runner) lastNetwork() (last peer.Network, err error) {
	b, err := os.ReadFile(r.memoryFile())
	if err != nil {
		return last, err
	}
	var m recollection
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
func (r *runner) saveNow() {
	if !r.saved.dirty || r.self == nil || r.list == nil || r.layout == nil {
		return
	}
	b, err := json.Marshal(memory{Layout: r.layout, Self: r.self, Former: r.former, Boot: r.boot})
	if err == nil {
		list := peer.Format(peer.Network{Prefixes: r.prefixes, Peers: r.list}) // large, and not copied once more
		err = replace(r.memoryFile(), 0o600, b[:len(b)-1], []byte(`,"network":`), list, []byte("}"))
	}
	if err != nil {
		r.log.Error("what the next agent would start with is not saved", "error", err)
		return
	}
	r.saved = saved{at: time.Now()}
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
