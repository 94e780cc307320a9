//go:build linux

package reference

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestContainerdIsBuiltAndTellsItsVersion(t *testing.T) {
	t.Parallel()
	dir, err := Containerd()
	require.NoError(t, err)
	for _, name := range []string{"containerd", "ctr"} {
		out, err := exec.Command(filepath.Join(dir, name), "--version").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), " "+ContainerdVersion)
	}
}
