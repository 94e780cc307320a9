//go:build linux

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/node"
)

const lockFile = "agent.lock"

// RunningError says that an agent keeps a network on this node.
type RunningError struct {
	Network string
	PID     int    // of the agent; 0 where it is in another process namespace
	Lock    string // path of the file that it holds
}

func (e *RunningError) Error() string {
	who := "process unknown"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("an agent keeps network %q on this node (%s, it holds %s): stop it first", e.Network, who, e.Lock)
}

// Exclude is for who does an agent's work, or takes away what one keeps: until unlock is called no agent of the network starts
// its work on this node. It does not wait: where one runs the error is a [*RunningError]. The network's directory may be
// removed meanwhile; where there is none no agent runs, and one may start.
func Exclude(stateDir, network string) (unlock func(), err error) {
	path := filepath.Join(node.Dir(stateDir, network), lockFile)
	const how = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	made := false
	fd, err := unix.Open(path, how, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = unix.Open(path, how|unix.O_CREAT, 0o600)
		if made = err == nil; errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
			return func() {}, nil // whoever may not write here takes nothing away
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		return func() {
			if made && at(fd, path) {
				_ = os.Remove(path)
			}
			release(fd)
		}, nil
	}
	defer unix.Close(fd)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return nil, &RunningError{Network: network, PID: holder(fd), Lock: path}
}

// at reports whether the open file is still the one at the path.
func at(fd int, path string) bool {
	var open, there unix.Stat_t
	return unix.Fstat(fd, &open) == nil && unix.Lstat(path, &there) == nil && open.Dev == there.Dev && open.Ino == there.Ino
}

// holder is the process that holds a lock of flock(2) on an open file, as proc_locks(5) has it; 0 if it cannot be seen.
func holder(fd int) (pid int) {
	var st unix.Stat_t
	f, err := os.Open("/proc/locks")
	if err != nil || unix.Fstat(fd, &st) != nil {
		return 0
	}
	defer f.Close()
	file := fmt.Sprintf(" %02x:%02x:%d ", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for s := bufio.NewScanner(f); s.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4711 00:1a:13 0 EOF; who waits has "->" after the number.
		if line := s.Text(); strings.Contains(line, file) && !strings.Contains(line, "->") {
			if n, _ := fmt.Sscanf(line, "%s FLOCK ADVISORY WRITE %d", new(string), &pid); n == 2 {
				return pid
			}
		}
	}
	return 0
}
