//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
)

// alone waits until no other agent of the network runs on this node, or ctx is done: one that is being replaced may take a
// moment.
func (a *Agent) alone(ctx context.Context) (unlock func(), err error) {
	dir := node.Dir(a.StateDir, a.Network)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockFile)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	for said := false; ; said = true {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { release(fd) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			unix.Close(fd)
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		if !said {
			a.Log.Warn("another agent of this network runs on this node; waiting for its end", "lock", path)
		}
		select {
		case <-ctx.Done():
			unix.Close(fd)
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// release gives a lock back and closes its file. A child that is just being started may hold a copy of the descriptor for a
// moment.
func release(fd int) {
	_ = unix.Flock(fd, unix.LOCK_UN)
	unix.Close(fd)
}

// noFlanneld fails if a flanneld runs in the namespace: both would write the same routes and the same lease.
func noFlanneld(ns *netns.NS) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || strings.TrimSpace(string(comm)) != "flanneld" {
			continue
		}
		there, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		same := errors.Is(err, fs.ErrPermission) // without CAP_SYS_PTRACE it cannot be told where the other is
		if err == nil {
			same = there.Same(ns)
			_ = there.Close()
		}
		if same {
			return fmt.Errorf("flanneld runs on this node (process %d), and two programs cannot keep the same routes and lease: stop it and keep it stopped, then start the agent", pid)
		}
	}
	return nil
}
