//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// build makes what `make build` makes, and the demo itself.
func build(t *testing.T) (demo, bin string) {
	t.Helper()
	bin = t.TempDir()
	compile := func(out, pkg string) {
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, string(said))
	}
	compile(filepath.Join(bin, "cniblocks"), "../../cmd/cniblocks")
	compile(filepath.Join(bin, "bridge"), "../../plugins")
	for _, name := range []string{"host-local", "loopback"} {
		require.NoError(t, os.Link(filepath.Join(bin, "bridge"), filepath.Join(bin, name)))
	}
	demo = filepath.Join(t.TempDir(), "demo")
	compile(demo, ".")
	return demo, bin
}

func TestTheDemo(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.Bridge)
	demo, bin := build(t)
	run := func(ns *netns.NS, tmp string, args ...string) (text string, ok bool) {
		require.NoError(t, ns.Do(func() error {
			cmd := exec.Command(demo, args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			out, err := cmd.CombinedOutput()
			text, ok = string(out), err == nil
			return nil
		}))
		return text, ok
	}

	t.Run("passes and touches nothing of the machine", func(t *testing.T) {
		t.Parallel()
		machine, tmp := nstest.New(t), t.TempDir()
		pins, err := netns.List()
		require.NoError(t, err)
		before := nstest.Dump(machine)
		out, ok := run(machine, tmp, "-bin", bin)
		require.True(t, ok, out)
		require.NotContains(t, out, "✗")
		for _, proof := range []string{"blue pings green", "green pings the outside: 2001:db8::2 answers", "when blue calls: 192.0.2.1, the node",
			"bridge demo0 [ours]", "nothing of a pod is left", "the node is as it was before everything", "Nothing of this machine was touched."} {
			require.Contains(t, out, proof)
		}
		require.Equal(t, before, nstest.Dump(machine))
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left)
		after, err := netns.List()
		require.NoError(t, err)
		for _, name := range []string{"blue", "green", "outside"} {
			require.Equal(t, slices.Contains(pins, name), slices.Contains(after, name))
		}
	})
	t.Run("says what is missing", func(t *testing.T) {
		t.Parallel()
		out, ok := run(nstest.New(t), t.TempDir(), "-bin", t.TempDir())
		require.False(t, ok)
		require.Contains(t, out, "bridge is missing: run 'make build' first")
		out, ok = run(nstest.New(t), t.TempDir(), "-bin", bin, "brigde")
		require.False(t, ok)
		require.Contains(t, out, `there is no demo "brigde"; did you mean "bridge"?`)
	})
	t.Run("fails with a plugin that does nothing", func(t *testing.T) {
		t.Parallel()
		lazy := t.TempDir()
		for _, name := range []string{"cniblocks", "host-local", "loopback"} {
			require.NoError(t, os.Symlink(filepath.Join(bin, name), filepath.Join(lazy, name)))
		}
		require.NoError(t, os.WriteFile(filepath.Join(lazy, "bridge"), []byte("#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\"}'\n"), 0o755))
		out, ok := run(nstest.New(t), t.TempDir(), "-bin", lazy)
		require.False(t, ok)
		require.Contains(t, out, "✗ ADD blue\n    ADD gave 0 addresses")
		require.Contains(t, out, "The demo failed.")
	})
}

func TestTwoStatesAreComparedObjectByObject(t *testing.T) {
	t.Parallel()
	require.NoError(t, compare(state{"a", "b"}, state{"a", "b"}))
	require.EqualError(t, compare(state{"a", "b"}, state{"b", "c"}), "missing: a\nleft over: c")
	require.Equal(t, 1, added(state{"link a"}, state{"link a", "link b", "file c"}, "link "))
}
