//go:build linux

package reference

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFlanneldIsBuiltAndRuns(t *testing.T) {
	t.Parallel()
	path, err := Flanneld()
	require.NoError(t, err)
	out, err := exec.Command(path, "--help").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "-subnet-file")
}
