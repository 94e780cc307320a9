//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/trace"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestReferenceAgainstItselfIsMeasuredOnBothSidesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	plugins, err := reference.Build("bridge", "host-local")
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "bench")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))

	dir := t.TempDir()
	file := filepath.Join(dir, "result.json")
	cmd := exec.Command(program, "-run", "^(plain|check)$", "-rounds", "2", "-ours", plugins, "-ref", plugins, "-dir", dir, "-json", file)
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, string(out))

	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var rep report.Report
	require.NoError(t, json.Unmarshal(b, &rep))
	require.Empty(t, rep.Failures)
	for _, operation := range []string{"ADD", "DEL"} {
		for _, arm := range []string{report.Ours, report.Reference} {
			c := rep.Find("plain", operation).Cell(arm)
			require.NotNil(t, c, "%s of %s", operation, arm)
			require.Equal(t, 2, c.N)
			require.Positive(t, c.Median)
			require.Positive(t, c.CPU)
			if trace.Available() == nil {
				require.Equal(t, 2, c.Processes, "bridge and host-local")
				require.Positive(t, c.NetlinkWrites)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "cniblocks-bench-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
