//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

const (
	insideEnv = "CNIBLOCKS_DEMO_INSIDE"
	asRoot    = "root"
	asUser    = "user"
)

// moveInside runs this program again in a network and a mount namespace of its own, for a plain user in a user namespace
// too. They end with it, and with them all that it made.
func moveInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	who := asRoot
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		who = asUser
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.Env = append(os.Environ(), insideEnv+"="+who)
	runtime.LockOSThread() // Pdeathsig follows the thread
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode()
	case errors.As(err, &exit):
		fmt.Fprintln(os.Stderr, "demo:", err)
	case os.Geteuid() != 0:
		fmt.Fprintf(os.Stderr, "demo: this system lets no plain user make namespaces (%v): run 'sudo make demo'\n", err)
	default:
		fmt.Fprintf(os.Stderr, "demo: cannot make a network and a mount namespace: %v\n"+
			"In a container it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, such as 'docker run --privileged' gives.\n", err)
	}
	return 1
}

// isolate gives this process a /run of its own, where pods are pinned and plugins keep state.
func isolate() error {
	if first, err := os.Stat("/proc/self/ns/net"); err == nil {
		if parent, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", os.Getppid())); err == nil && os.SameFile(first, parent) {
			return fmt.Errorf("%s is set, but this is no namespace of the demo's: unset it", insideEnv)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	return os.Mkdir(netns.Dir, 0o755)
}

// needPrograms looks for what `make build` makes.
func needPrograms(dir string) error {
	for _, name := range []string{"bridge", "host-local", "loopback", "cniblocks"} {
		_, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: run 'make build' first, or say with -bin where the plugins are", filepath.Join(dir, name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
