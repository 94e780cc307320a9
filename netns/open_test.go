//go:build linux

package netns_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestOpenFindsTheNamespaceOfAPinAProcessAndAThread(t *testing.T) {
	t.Parallel()
	name, pinned := nstest.Named(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(netns.Dir+"/"+name, link))
	for _, path := range []string{netns.Dir + "/" + name, fmt.Sprintf("/proc/self/fd/%d", pinned.Fd()), link} {
		ns, err := netns.Open(path)
		require.NoError(t, err, path)
		require.True(t, ns.Same(pinned), path)
		require.Equal(t, path, ns.Path())
		require.NoError(t, ns.Close())
	}
	own, err := netns.Open("/proc/self/ns/net")
	require.NoError(t, err)
	defer own.Close()
	require.False(t, own.Same(pinned))
	require.NoError(t, pinned.Do(func() error {
		here, err := netns.Current()
		require.NoError(t, err)
		defer here.Close()
		require.True(t, here.Same(pinned))
		require.True(t, pinned.Here())
		return nil
	}))
	require.False(t, pinned.Here())
}

func TestAPathThatIsNoNamespaceIsAClearErrorAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, unix.Mkfifo(at("fifo"), 0o600))
	require.NoError(t, os.WriteFile(at("plain"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(at("empty"), nil, 0))
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(socket)
	require.NoError(t, unix.Bind(socket, &unix.SockaddrUnix{Name: at("socket")}))
	require.NoError(t, os.Symlink(at("fifo"), at("to-fifo")))

	for name, path := range map[string]string{
		"FIFO": at("fifo"), "link to a FIFO": at("to-fifo"), "plain file": at("plain"), "pin without its mount": at("empty"),
		"socket": at("socket"), "directory": dir, "character device": "/dev/null", "terminal": "/dev/tty",
		"kernel log": "/dev/kmsg", "file of procfs": "/proc/self/status", "directory of procfs": "/proc/self/ns",
		"mount namespace": "/proc/self/ns/mnt", "user namespace": "/proc/self/ns/user", "PID namespace": "/proc/self/ns/pid",
		"root directory": "/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := os.Lstat(path); err != nil {
				path = "/dev/zero"
			}
			_, err := netns.Open(path)
			require.ErrorIs(t, err, netns.ErrNotNamespace)
			require.ErrorContains(t, err, path)
		})
	}
}

func TestAMissingPathIsErrNotExist(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/run/netns/cnibtest-none", "/proc/4194305/ns/net", ""} {
		_, err := netns.Open(path)
		require.ErrorIs(t, err, fs.ErrNotExist, path)
	}
	dangling := filepath.Join(t.TempDir(), "dangling")
	require.NoError(t, os.Symlink("/nowhere/at/all", dangling))
	_, err := netns.Open(dangling)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAHostilePathIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	require.NoError(t, os.Symlink(loop, loop))
	_, err := netns.Open(loop)
	require.ErrorIs(t, err, unix.ELOOP)

	deep := filepath.Join(dir, "0")
	require.NoError(t, os.Symlink("/proc/self/ns/net", deep))
	for i := range 60 {
		next := filepath.Join(dir, fmt.Sprint(i+1))
		require.NoError(t, os.Symlink(deep, next))
		deep = next
	}
	_, err = netns.Open(deep)
	require.ErrorIs(t, err, unix.ELOOP)

	_, err = netns.Open("/proc/self/status/net")
	require.ErrorIs(t, err, unix.ENOTDIR)
	_, err = netns.Open("/" + strings.Repeat("a", 300))
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	_, err = netns.Open("/proc/self/ns/net\x00")
	require.ErrorIs(t, err, unix.EINVAL)
}

func TestANamespaceLivesAsLongAsItIsOpen(t *testing.T) {
	t.Parallel()
	name, pinned := nstest.Named(t)
	again, err := netns.Open(netns.Dir + "/" + name)
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, netns.Remove(name))
	cookie, err := again.Cookie()
	require.NoError(t, err)
	same, err := pinned.Cookie()
	require.NoError(t, err)
	require.Equal(t, same, cookie)
}

func TestCookiesTellNamespacesApart(t *testing.T) {
	t.Parallel()
	seen := map[uint64]bool{}
	for range 20 {
		nstest.NeedRoot(t)
		ns, err := netns.New()
		require.NoError(t, err)
		cookie, err := ns.Cookie()
		require.NoError(t, err)
		require.NoError(t, ns.Close())
		require.NotZero(t, cookie)
		require.False(t, seen[cookie], "cookie %d came twice", cookie)
		seen[cookie] = true
	}
}
