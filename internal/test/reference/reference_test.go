//go:build linux

package reference

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuildGivesStaticPluginsThatAnswerVersion(t *testing.T) {
	t.Parallel()
	dir, err := Build("loopback", "static")
	require.NoError(t, err)
	for _, name := range []string{"loopback", "static"} {
		path := filepath.Join(dir, name)
		f, err := elf.Open(path)
		require.NoError(t, err)
		libs, err := f.ImportedLibraries()
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.Empty(t, libs)

		cmd := exec.Command(path)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Contains(t, string(out), `"supportedVersions"`)
	}
}

func TestBuildersAtOnceLeaveNothingHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = buildIn(dir, []string{"loopback"}) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.ElementsMatch(t, []string{".lock", "loopback"}, names)
}

func TestBuildOfAnUnknownNameSaysWhichAreKnown(t *testing.T) {
	t.Parallel()
	_, err := Build("bridg")
	require.ErrorContains(t, err, `"bridg"`)
	require.ErrorContains(t, err, "bridge, cnitool")
}
