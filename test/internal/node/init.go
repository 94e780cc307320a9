//go:build linux

package node

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// initEnv marks the copy of the test program that is the first process of a node.
const initEnv = "CNIBLOCKS_TEST_NODE"

const ready = "ready\n"

// Init does not return in the copy of the program that is the first process of a node. It is to be called first thing in
// TestMain.
func Init() {
	if os.Getenv(initEnv) == "" {
		return
	}
	if err := mounts(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(ready)
	reap()
}

// machineProc is the machine's own /proc as the node sees it.
const machineProc = "/run/machine-proc"

// mounts gives the node its own /proc, /run and /var/lib. The directory for temporary files stays the machine's, wherever
// it is: tests have their programs there.
func mounts() error {
	tmp, err := unix.Open(os.TempDir(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "/var/lib", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{fmt.Sprintf("/proc/self/fd/%d", tmp), os.TempDir(), "", unix.MS_BIND, ""},
		{"/proc", machineProc, "", unix.MS_BIND, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		}
		if err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	for _, dir := range []string{netnsDir, Tmp, "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// reap waits for processes that lost their parent, as the first process of a system must.
func reap() {
	dead := make(chan os.Signal, 1)
	signal.Notify(dead, unix.SIGCHLD)
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid > 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		select {
		case <-dead:
		case <-time.After(time.Second):
		}
	}
}
