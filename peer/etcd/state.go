package etcd

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// state is what a node remembers over restarts: the etcd lease that it uses or is about to make, and the key that it had.
// A machine that was copied under another name has no use for the original's.
type state struct {
	Node  string  `json:"node"`
	Lease leaseID `json:"lease,omitempty"` // 0 is none
	Key   string  `json:"key,omitempty"`
}

// leaseID is written as etcdctl shows it, in hexadecimal.
type leaseID clientv3.LeaseID

func (id leaseID) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(id), 16), nil }

func (id *leaseID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseInt(string(b), 16, 64)
	*id = leaseID(n)
	return err
}

// newLeaseID is one that nobody has: 63 bits by chance.
func newLeaseID() leaseID {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return leaseID(binary.BigEndian.Uint64(b[:])>>1 | 1)
}

// load returns what is remembered of a node. What cannot be read is nothing: the node finds its lease by its address then.
func (s *Store) load(node string) state {
	fresh := state{Node: node}
	if s.o.StateFile == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held != nil && s.held.name == node {
			fresh.Lease, fresh.Key = leaseID(s.held.lease), s.held.key
		}
		return fresh
	}
	b, err := os.ReadFile(s.o.StateFile)
	var st state
	if err != nil || json.Unmarshal(b, &st) != nil || st.Node != node || st.Lease < 0 {
		return fresh
	}
	return st
}

// save puts the state where a crash or a power loss does not take it, in one step.
func (s *Store) save(st state) (err error) {
	if s.o.StateFile == "" || s.load(st.Node) == st {
		return nil
	}
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := replace(s.o.StateFile, append(b, '\n')); err != nil {
		return fmt.Errorf("remember the etcd lease of this node: %w", err)
	}
	return nil
}

func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Only one agent runs for a network, and what a killed one left goes with the next.
	by := path + ".new"
	if err := os.Remove(by); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(by, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
