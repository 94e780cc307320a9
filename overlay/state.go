//go:build linux

package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

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
	fd := int(f.Fd())
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			n.locked = true
			return func() {
				n.locked = false
				f.Close()
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s, which another process holds: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}
