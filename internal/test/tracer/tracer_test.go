//go:build linux

package tracer_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/tracer"
)

const victimEnv = "CNIBLOCKS_TRACER_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(m.Run())
}

// victim makes a directory and a file with content, and while another program copies the file, a second directory.
func victim(dir string) int {
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		return 2
	}
	if err := os.WriteFile(dir+"/sub/file", []byte("content"), 0o644); err != nil {
		return 3
	}
	cp := exec.Command("cp", dir+"/sub/file", dir+"/sub/copy")
	if err := cp.Start(); err != nil {
		return 4
	}
	if err := os.Mkdir(dir+"/sub/started", 0o755); err != nil {
		return 5
	}
	if err := cp.Wait(); err != nil {
		return 6
	}
	return 0
}

type tracing func(*exec.Cmd, func(tracer.Call) tracer.Verdict) (tracer.Outcome, error)

// each runs a test with the filter, and where the kernel stops the program at every call.
func each(t *testing.T, f func(*testing.T, tracing)) {
	t.Run("filtered", func(t *testing.T) { f(t, tracer.Trace) })
	t.Run("every call", func(t *testing.T) { f(t, tracer.TraceEveryCall) })
}

func (trace tracing) victim(t *testing.T, before func(tracer.Call) tracer.Verdict) (dir string, out tracer.Outcome) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	out, err := trace(cmd, before)
	require.NoError(t, err)
	return dir, out
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, strings.TrimPrefix(path, dir))
		return err
	}))
	return all[1:]
}

func about(calls []string, dir string) (mine []string) {
	for _, c := range calls {
		if c = strings.ReplaceAll(c, dir, ""); strings.ContainsAny(c, "/") || strings.HasPrefix(c, "clone") || strings.HasPrefix(c, "write") {
			mine = append(mine, c)
		}
	}
	return mine
}

func TestChangesAreCountedAndNamed(t *testing.T) {
	each(t, func(t *testing.T, trace tracing) {
		var calls []string
		dir, out := trace.victim(t, func(c tracer.Call) tracer.Verdict {
			calls = append(calls, c.String())
			require.Equal(t, len(calls), c.N)
			return tracer.Verdict{}
		})
		require.Equal(t, tracer.Outcome{Changes: len(calls)}, out)
		// The first start of a program in a process may be preceded by a trial of its own.
		require.Equal(t, []string{"mkdirat /sub", "openat /sub/file", "write file", "clone", "mkdirat /sub/started"}, slices.Compact(about(calls, dir)))
		require.Equal(t, []string{"/sub", "/sub/copy", "/sub/file", "/sub/started"}, names(t, dir))
	})
}

func TestTheKernelLetsTheOtherCallsPass(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("calls are filtered on amd64 only")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+t.TempDir())
	_, err := tracer.Trace(cmd, func(c tracer.Call) tracer.Verdict {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		require.NoError(t, err)
		require.Regexp(t, `\nSeccomp:\s+2\n`, string(status))
		return tracer.Verdict{}
	})
	require.NoError(t, err)
}

func TestAProgramIsKilledBeforeTheCall(t *testing.T) {
	each(t, func(t *testing.T, trace tracing) {
		dir, out := trace.victim(t, func(c tracer.Call) tracer.Verdict {
			if c.Name() == "write" {
				return tracer.Kill()
			}
			return tracer.Verdict{}
		})
		require.True(t, out.Killed)
		require.Equal(t, []string{"/sub", "/sub/file"}, names(t, dir))
		b, err := os.ReadFile(dir + "/sub/file")
		require.NoError(t, err)
		require.Empty(t, b)
	})
}

func TestACallThatFailsDoesNothingAndTheProgramGoesOn(t *testing.T) {
	each(t, func(t *testing.T, trace tracing) {
		for call, status := range map[string]int{"mkdirat": 2, "openat": 3, "write": 3, "clone": 4} {
			t.Run(call, func(t *testing.T) {
				struck := false
				dir, out := trace.victim(t, func(c tracer.Call) tracer.Verdict {
					if c.Name() == call && (!struck || call == "clone") {
						struck = true
						return tracer.Fail(syscall.ENOSPC)
					}
					return tracer.Verdict{}
				})
				require.True(t, struck)
				require.False(t, out.Killed)
				require.Equal(t, status, out.Status)
				require.NotContains(t, names(t, dir), "/sub/copy")
			})
		}
	})
}

func TestATraceEndsWhenTheProgramsThatWereStartedHaveEnded(t *testing.T) {
	each(t, func(t *testing.T, trace tracing) {
		dir, out := trace.victim(t, func(c tracer.Call) tracer.Verdict {
			if strings.HasSuffix(c.String(), "/started") {
				return tracer.Kill()
			}
			return tracer.Verdict{}
		})
		require.True(t, out.Killed)
		require.Equal(t, []string{"/sub", "/sub/copy", "/sub/file"}, names(t, dir))
	})
}
