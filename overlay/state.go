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

func (n *Node) dir() string { return filepath.Join(n.o.StateDir, n.o.Network) }

// lock waits for the network's lock, which all processes of this machine that set its peers share. It is a flock(2),
// given back by the end of the process too.
func (n *Node) lock(ctx context.Context) (unlock func(), err error) {
	if n.locked {
		return func() {}, nil
	}
	dir, err := node.OpenDir(n.o.StateDir, n.o.Network)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := filepath.Join(n.dir(), "lock")
	f, err := dir.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s is not a file of ours, remove it: %w", path, err)
	}
	if err := wait.Lock(ctx, int(f.Fd()), 0, 10*time.Millisecond); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	n.locked = true
	return func() {
		n.locked = false
		f.Close()
	}, nil
}
