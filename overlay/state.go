//go:build linux

package overlay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cniblocks/cniblocks/internal/base/wait"
	"github.com/cniblocks/cniblocks/node"
)

// stateDir is the directory of a network, until the next boot: its lock, and what was applied.
type stateDir struct {
	root, network string
	stamp         string // name of the file
	locked        bool   // by this process
}

func (s *stateDir) path(name string) string { return filepath.Join(s.root, s.network, name) }

// lock waits for the network's lock, which all processes of this machine that set its peers share. It is a flock(2),
// given back by the end of the process too.
func (s *stateDir) lock(ctx context.Context) (unlock func(), err error) {
	if s.locked {
		return func() {}, nil
	}
	dir, err := node.OpenDir(s.root, s.network)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := s.path("lock")
	f, err := dir.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s is not a file of ours, remove it: %w", path, err)
	}
	if err := wait.Lock(ctx, int(f.Fd()), 0, 10*time.Millisecond); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	s.locked = true
	return func() {
		s.locked = false
		f.Close()
	}, nil
}

func (s *stateDir) dropStamp() error { return notThere(os.Remove(s.path(s.stamp))) }
