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

// singleton waits until no other agent of the network runs on this node, or ctx is done: one that is being replaced may take a
// moment, and so may somebody who removes what an earlier one left, with this lock.
func (a *Agent) singleton(ctx context.Context) (unlock func(), err error) {
	dir := node.Dir(a.StateDir, a.Network)
	path := filepath.Join(dir, lockFile)
	fd := -1
	for said := false; ; {
		if fd < 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, err
			}
			fd, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
			if errors.Is(err, unix.ENOENT) && ctx.Err() == nil {
				continue // the directory was removed again
			}
			if err != nil {
				return nil, &fs.PathError{Op: "open", Path: path, Err: err}
			}
		}
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil && at(fd, path):
			return func() { release(fd) }, nil
		case err == nil:
			unix.Close(fd)
			fd = -1
			continue
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			unix.Close(fd)
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		if !said {
			said = true
			a.Log.Warn("another agent of this network runs on this node, or what it left is being removed; waiting for the end of that", "lock", path)
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
