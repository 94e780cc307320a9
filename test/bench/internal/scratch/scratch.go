//go:build linux

// Package scratch is the world in which benchmarks run: mount and network namespaces that end with the program, nodes
// with an uplink to an outside host, pods, and plugins that are started in them and measured.
//
// Nothing of the machine is touched: interfaces, addresses and rules live in namespaces, /run is a tmpfs of our own, and
// state that plugins keep on disk goes to a directory that is removed at the end.
package scratch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// env carries the directory of the scratch world to the program that runs in it.
const env = "CNIBLOCKS_SCRATCH_DIR"

// Dir is the directory for what must lie on a real file system, in the program that [Start] started, and empty elsewhere.
func Dir() string { return os.Getenv(env) }

// Start runs this program again, with the same arguments and further environment variables, in namespaces of its own,
// and waits for its end. It makes the directory that [Dir] returns there below parent, and removes it afterwards, also
// when the context ends, which kills the program. Needs root.
func Start(ctx context.Context, parent string, environ ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("the benchmark makes network namespaces: run it as root")
	}
	dir, err := os.MkdirTemp(parent, "cniblocks-bench-")
	if err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	defer os.RemoveAll(dir)
	runtime.LockOSThread() // the kernel takes the end of the thread for that of the parent
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), environ...), env+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("in the scratch namespaces: %w", err)
	}
	return nil
}

// Enter prepares the namespaces of a program that [Start] started: mounts that nobody else sees, an own /run and /sys,
// and empty directories over those where plugins keep state by default.
func Enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs on /sys: %w", err)
	}
	for _, path := range []string{"/var/lib/cni", "/var/lib/cniblocks"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cover := filepath.Join(Dir(), "cover", filepath.Base(path))
		if err := os.MkdirAll(cover, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(cover, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", cover, path, err)
		}
	}
	// What a plugin leaves running in the background becomes our child, to be waited for and accounted.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// FileSystem names the kind of file system that dir lies on.
func FileSystem(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
	if name := names[st.Type]; name != "" {
		return name
	}
	return fmt.Sprintf("%#x", st.Type)
}

// Sysctl writes a value below /proc/sys, in the network namespace of the calling thread.
func Sysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}
