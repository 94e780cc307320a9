//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// memory is what an agent needs to start while the store is down: <dataDir>/<network>/peers.json. It holds no secrets.
type memory struct {
	Layout  *Layout         `json:"layout,omitempty"`
	Self    *peer.Peer      `json:"self,omitempty"`
	Former  []netip.Prefix  `json:"former,omitempty"` // ranges that pods of this boot may still have
	Boot    string          `json:"boot,omitempty"`
	Network json.RawMessage `json:"network,omitempty"` // the last good list, with the prefixes that the source stated; read where it is needed
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
	if r.layout != nil && r.self != nil && r.list != nil {
		r.memory.Network = nil
		return false
	}
	if m.Layout == nil || m.Self == nil || m.Network == nil {
		return false
	}
	var last peer.Network
	if err := json.Unmarshal(m.Network, &last); err != nil || last.Peers == nil {
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

// saveNow writes the file in one step.
func (r *runner) saveNow() {
	if !r.saved.dirty || r.self == nil || r.list == nil || r.layout == nil {
		return
	}
	m := memory{Layout: r.layout, Self: r.self, Former: r.former, Boot: r.boot, Network: peer.Format(peer.Network{Prefixes: r.prefixes, Peers: r.list})}
	b, err := json.Marshal(m)
	if err == nil {
		err = replace(r.memoryFile(), b, 0o600)
	}
	if err != nil {
		r.log.Error("what the next agent would start with is not saved", "error", err)
		return
	}
	r.saved = saved{at: time.Now()}
}

// replace puts a file in place in one step, and on the disk before that, and makes its directory.
func replace(path string, b []byte, mode fs.FileMode) error {
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
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}
