//go:build linux

package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

func TestMain(m *testing.M) {
	node.Init()
	nstest.Main(m)
}

func TestANodeHasItsOwnNetworkFilesAndProcesses(t *testing.T) {
	t.Parallel()
	n := node.New(t)
	out, err := n.Run(nil, "sh", "-c", `echo $PPID; tail -n +3 /proc/net/dev; ls /run/netns`)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2, out)
	require.Equal(t, "0", lines[0], "its parent is in another system")
	require.Contains(t, lines[1], "lo:")
	n.Write(t, "/var/lib/cni/networks/x", "y")
	_, err = os.Stat("/var/lib/cni/networks/x")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Contains(t, n.Trace(t), "/var/lib/cni/networks/x\n")
}

func TestAPodIsSeenOnItsNodeAlone(t *testing.T) {
	t.Parallel()
	n := node.New(t)
	path, ns := n.Pod(t, "blue")
	before := nstest.Dump(ns)
	_, err := n.Run(nil, "ip", "-n", "blue", "link", "add", "b0", "type", "bridge")
	require.NoError(t, err)
	require.NotEqual(t, before, nstest.Dump(ns))
	_, err = os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWhateverRunsOnANodeEndsWithIt(t *testing.T) {
	t.Parallel()
	node.NeedRealRoot(t)
	var cgroup string
	mark := fmt.Sprintf("sleep\x009%d.25\x00", os.Getpid())
	t.Run("node", func(t *testing.T) {
		n := node.New(t)
		cgroup = n.Cgroup
		dirs, err := filepath.Glob("/sys/fs/cgroup/*/tasks")
		require.NoError(t, err)
		if len(dirs) == 0 {
			dirs = []string{"/sys/fs/cgroup/cgroup.procs"}
		}
		child := filepath.Join(filepath.Dir(dirs[0]), n.Cgroup, "child")
		require.NoError(t, os.MkdirAll(child, 0o755))
		_, err = n.Run(nil, "sh", "-c", "setsid "+strings.ReplaceAll(mark, "\x00", " ")+">/dev/null 2>&1 &")
		require.NoError(t, err)
		require.Eventually(t, func() bool { return running(mark) }, 5*time.Second, time.Millisecond)
	})
	require.False(t, running(mark))
	left, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
	require.NoError(t, err)
	require.Empty(t, left)
}

// running reports whether the machine has a process of that command line.
func running(cmdline string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == cmdline {
			return true
		}
	}
	return false
}
