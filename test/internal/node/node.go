//go:build linux

// Package node plays a machine for container runtimes: namespaces for network, mounts and processes, with /run and
// /var/lib of their own, on tmpfs. A runtime works there with its usual paths and touches nothing of the machine's. When
// the node ends the kernel kills whatever still runs in it; it ends with the test at the latest, however that ends.
package node

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// Tmp is a directory of the node for its programs' temporary files.
const Tmp = "/run/node-tmp"

const netnsDir = netns.Dir

// Node is a machine. See [New].
type Node struct {
	Net *netns.NS
	// Cgroup is for the containers of the node: a path below each hierarchy's root, removed with the node.
	Cgroup string

	mnt, pid int // descriptors of the namespaces
}

// New makes a node, until the end of the test. The test is skipped where this process is not the real root.
func New(t testing.TB) *Node {
	t.Helper()
	NeedRealRoot(t)
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	n := &Node{Net: nstest.New(t), Cgroup: "/" + nstest.Prefix + hex.EncodeToString(b)}
	// A link-local address would show in Trace only after a second or two.
	nstest.Sysctl(t, n.Net, "net/ipv6/conf/default/accept_dad", "0")
	pid := n.start(t)
	n.mnt, n.pid = open(t, pid, "mnt"), open(t, pid, "pid")
	return n
}

// NeedRealRoot skips the test where this process is root in a user namespace only: there are no cgroups to be had.
func NeedRealRoot(t testing.TB) {
	t.Helper()
	nstest.NeedRoot(t)
	ids, err := os.ReadFile("/proc/self/uid_map")
	require.NoError(t, err)
	if f := strings.Fields(string(ids)); len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295" {
		t.Skip("lane: needs the machine's root, runs in the namespace lane")
	}
}

// start starts the node's first process, and returns its ID as the machine sees it.
func (n *Node) start(t testing.TB) (pid int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), initEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.Net.Do(func() error { // this thread stays as long as its child, which is to die with it
			err := cmd.Start()
			started <- err
			if err == nil {
				_ = cmd.Wait()
			}
			return nil
		})
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended // all processes of the node are gone
		require.NoError(t, RemoveCgroup(n.Cgroup))
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.Equal(t, ready, line, "%v", err)
	return cmd.Process.Pid
}

func open(t testing.TB, pid int, kind string) (fd int) {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// Do calls f on a thread that sees the node's network and files, and whose children are the node's processes. The thread
// is thrown away. It finds nothing in /proc/self, since this process is not one of the node's.
func (n *Node) Do(f func() error) error {
	return n.Net.Do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		for _, fd := range []int{n.mnt, n.pid} {
			if err := unix.Setns(fd, 0); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
		}
		return f()
	})
}

// Run runs a program on the node and returns its standard output. The environment is added to this process's. An error
// holds what the program printed.
func (n *Node) Run(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+Tmp)
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 2 * time.Second // for those that inherited its output
	err := n.Do(cmd.Run)
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, &out, &errs)
	}
	return out.String(), err
}

// Write writes a file of the node, and the directories above it.
func (n *Node) Write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, n.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		// In one step, since others watch the directory.
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}))
}

// Pod makes a network namespace with a path on the node, until the end of the test.
func (n *Node) Pod(t testing.TB, name string) (path string, ns *netns.NS) {
	t.Helper()
	ns = nstest.New(t)
	path = filepath.Join(netnsDir, name)
	require.NoError(t, n.Do(func() error {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("%s/%d/fd/%d", machineProc, os.Getpid(), ns.Fd()), path, "", unix.MS_BIND, "")
	}))
	return path, ns
}
