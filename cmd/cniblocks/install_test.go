//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
)

// plugins is the program of the plugins, and their names.
func plugins(t testing.TB) (file string, names []string) {
	t.Helper()
	dir, err := binaries.Build()
	require.NoError(t, err)
	file = filepath.Join(dir, "loopback")
	list, err := exec.Command(file, "--list").Output()
	require.NoError(t, err)
	return file, strings.Fields(string(list))
}

func TestInstallPutsOneFileUnderAllNamesOfThePluginsButFlannel(t *testing.T) {
	t.Parallel()
	from, names := plugins(t)
	dir := filepath.Join(t.TempDir(), "opt", "bin")
	status, out, errs := call(t, "install", "--from", from, "--dir", dir)
	require.Zero(t, status, errs)
	require.Equal(t, "installed in "+dir+": "+strings.Join(names, " ")+"\n", out)
	require.ElementsMatch(t, names, entries(t, dir))
	first, err := os.Stat(filepath.Join(dir, names[0]))
	require.NoError(t, err)
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, name != "flannel", os.SameFile(first, info), name)
		require.Equal(t, os.FileMode(0o755), info.Mode())
		list, err := exec.Command(filepath.Join(dir, name), "--list").Output()
		require.NoError(t, err)
		require.Equal(t, names, strings.Fields(string(list)))
	}

	status, out, _ = call(t, "install", "--from", from, "--dir", dir)
	require.Zero(t, status)
	require.Equal(t, "up to date in "+dir+": "+strings.Join(names, " ")+"\n", out)
	again, err := os.Stat(filepath.Join(dir, names[0]))
	require.NoError(t, err)
	require.True(t, os.SameFile(first, again))
}

func TestWhoeverWritesOverOurFlannelChangesNoOtherPlugin(t *testing.T) {
	t.Parallel()
	from, names := plugins(t)
	dir := t.TempDir()
	for _, before := range []func(){
		func() {},
		func() {}, // what the first round left
		func() { // all links to one file, as an earlier version left them
			require.NoError(t, os.Remove(filepath.Join(dir, "flannel")))
			require.NoError(t, os.Link(filepath.Join(dir, "bridge"), filepath.Join(dir, "flannel")))
		},
	} {
		before()
		status, out, errs := call(t, "install", "--from", from, "--dir", dir)
		require.Zero(t, status, errs)
		require.Contains(t, out, "installed in ")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "flannel"), []byte("flannel's own"), 0o755))
		for _, name := range names {
			if name != "flannel" {
				_, err := exec.Command(filepath.Join(dir, name), "--list").Output()
				require.NoError(t, err, name)
			}
		}
	}
}

func TestInstallReplacesWhatBearsAPluginsNameAndLeavesTheRest(t *testing.T) {
	t.Parallel()
	from, names := plugins(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "portmap-of-others"), []byte("x"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "target"), []byte("y"), 0o755))
	require.NoError(t, os.Symlink("target", filepath.Join(dir, names[0])))
	require.NoError(t, os.WriteFile(filepath.Join(dir, names[1]), []byte("old"), 0o700))
	running, err := os.Open(filepath.Join(dir, names[1]))
	require.NoError(t, err)
	defer running.Close()
	status, _, errs := call(t, "install", "--from", from, "--dir", dir)
	require.Zero(t, status, errs)
	require.ElementsMatch(t, append([]string{"portmap-of-others", "target"}, names...), entries(t, dir))
	b, err := os.ReadFile(filepath.Join(dir, "target"))
	require.NoError(t, err)
	require.Equal(t, "y", string(b), "the link was replaced, not what it leads to")
	old := make([]byte, 3)
	_, err = running.Read(old)
	require.NoError(t, err)
	require.Equal(t, "old", string(old), "who had the old file open has it still")
}

func TestInstallOfSomethingElseIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for from, want := range map[string]string{"/bin/true": "it lists none; state it by --from", "/nonexistent": "state it by --from", "": pluginProgram} {
		status, _, errs := call(t, "install", "--from", from, "--dir", dir)
		require.Equal(t, failed, status)
		require.Contains(t, errs, want)
	}
	require.Empty(t, entries(t, dir))
	status, _, errs := call(t, "install")
	require.Equal(t, misuse, status)
	require.Contains(t, errs, "want --dir DIR")
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestInstallSwitchesOnForwardingWhereItIsOff(t *testing.T) {
	t.Parallel()
	from, _ := plugins(t)
	dir, parameters := t.TempDir(), t.TempDir()
	four, six := filepath.Join(parameters, "ipv4/ip_forward"), filepath.Join(parameters, "ipv6/conf/all/forwarding")
	for path, value := range map[string]string{four: "0\n", six: "2\n"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(value), 0o644))
	}
	status, _, errs := call(t, "install", "--from", from, "--dir", dir, "--sysctl-dir", parameters, "--forward", "ipv4,ipv6")
	require.Zero(t, status, errs)
	for path, want := range map[string]string{four: "1", six: "2\n"} {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	status, _, errs = call(t, "install", "--from", from, "--dir", dir, "--sysctl-dir", parameters, "--forward", "ipv5")
	require.Equal(t, failed, status)
	require.Contains(t, errs, "--forward ipv5: want ipv4, ipv6 or ipv4,ipv6")
	status, _, errs = call(t, "install", "--from", from, "--dir", dir, "--sysctl-dir", "/nonexistent", "--forward", "ipv6")
	require.Equal(t, failed, status)
	require.Contains(t, errs, "switch on ipv6 forwarding: open /nonexistent/ipv6/conf/all/forwarding")
}
