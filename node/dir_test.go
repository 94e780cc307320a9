//go:build linux

package node_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/node"
)

func TestALinkInPlaceOfTheDirectoryIsRefusedAndNothingWrittenBehindIt(t *testing.T) {
	t.Parallel()
	ns, state, victim := nstest.New(t), t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(victim, filepath.Join(state, "net")))
	require.ErrorContains(t, node.Write(ns, filepath.Join(state, "net", "node.json"), file(t)), state+"/net is not a directory of ours, remove it")
	entries, err := os.ReadDir(victim)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestADirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	state := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(state, "net"), 0o755))
	if err := os.Chown(filepath.Join(state, "net"), 4711, 4711); err != nil {
		t.Skipf("lane: needs root, runs in the namespace lane (%v)", err)
	}
	_, err := node.OpenDir(state, "net")
	require.ErrorContains(t, err, "belongs to user 4711")
}

func TestLinksAndFIFOsInPlaceOfFilesAreReplacedNotFollowed(t *testing.T) {
	t.Parallel()
	ns, state := nstest.New(t), t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	path := filepath.Join(state, "net", "node.json")
	require.NoError(t, os.Mkdir(filepath.Join(state, "net"), 0o755))
	for _, plant := range []func() error{
		func() error { return os.Symlink(victim, path) },
		func() error { return unix.Mkfifo(path, 0o600) },
		func() error { return os.WriteFile(path, []byte(strings.Repeat(" ", 2<<20)), 0o600) },
	} {
		require.NoError(t, plant())
		_, err := node.Read(ns, path)
		require.Error(t, err)
		require.NoError(t, node.Write(ns, path, file(t)))
		got, err := node.Read(ns, path)
		require.NoError(t, err)
		require.Equal(t, file(t), got)
		require.NoError(t, os.Remove(path))
	}
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

func TestReplaceMendsWhatACrashLeft(t *testing.T) {
	t.Parallel()
	dir, err := node.OpenDir(t.TempDir(), "net")
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, dir.WriteFile("new", []byte("half"), 0o600))
	require.NoError(t, node.Replace(dir, "name", "new", []byte("whole"), 0o644))
	b, err := dir.ReadFile("name")
	require.NoError(t, err)
	require.Equal(t, "whole", string(b))
	info, err := dir.Stat("name")
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o644), info.Mode())
	_, err = dir.Stat("new")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
