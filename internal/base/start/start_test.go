//go:build linux

package start

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

type told struct {
	Args, Env        []string
	Processors, Page int
	Limit            syscall.Rlimit // of open files
	Threads          []string       // the processors of each, as a mask
	Slacks           []string       // of the timers of each, that of main first
	Child            string         // limit, processors and slack of a program it starts
}

// program builds testdata/program, entered at entry where there is one, or where every program is.
func program(t *testing.T, entered bool) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	flags := ""
	if runtime.GOARCH == "amd64" && entered {
		flags = "-E=github.com/cniblocks/cniblocks/internal/base/start.entry"
	}
	_, err := gobuild.Go(".", "build", "-trimpath", "-ldflags", flags, "-o", path, "./testdata/program")
	require.NoError(t, err)
	return path
}

func run(t *testing.T, path string, args, env []string) (what told) {
	t.Helper()
	out, err := (&exec.Cmd{Path: path, Args: args, Env: env}).Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, &what), "%s", out)
	return what
}

func TestAProgramStartsWithOneProcessorUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	path := program(t, true)
	ours, one := []string{"GOMAXPROCS=" + Processors}, 1
	if runtime.GOARCH != "amd64" {
		ours, one = nil, runtime.GOMAXPROCS(0)
	}
	for name, s := range map[string]struct {
		args, env, add []string
		processors     int
	}{
		"nothing":                       {[]string{""}, []string{}, ours, one},
		"arguments and environment":     {[]string{"a", "b", "", strings.Repeat("c", 5000)}, []string{"A=1", "B=", "C=" + strings.Repeat("d", 5000)}, ours, one},
		"the name of a child, and more": {[]string{"cniblocks-reap", "x"}, []string{"A=1"}, ours, one},
		"nearly the name of a child":    {[]string{"cniblocks-reaper"}, []string{}, ours, one},
		"stated by the user":            {[]string{"a"}, []string{"A=1", "GOMAXPROCS=3", "B=2"}, nil, 3},
		"more than a page of strings":   {[]string{"a"}, many(2000), ours, one},
	} {
		told := run(t, path, s.args, s.env)
		require.Equal(t, s.args, told.Args, name)
		require.Equal(t, s.processors, told.Processors, name)
		require.Equal(t, append(s.env, s.add...), told.Env, name)
		require.Equal(t, 4096, told.Page, "%s: the auxiliary vector", name)
	}
}

// TestTheLimitOfOpenFilesIsAsEver: package os raises the soft limit, and gives children the one that it found.
func TestTheLimitOfOpenFilesIsAsEver(t *testing.T) {
	t.Parallel()
	ours, theirs := program(t, true), program(t, false)
	for _, soft := range []string{"3", "100", "199", "200"} {
		limited := func(path string) told {
			return run(t, "/bin/sh", []string{"sh", "-c", "ulimit -Sn " + soft + " && ulimit -Hn 200 && exec " + path}, []string{})
		}
		have, want := limited(ours), limited(theirs)
		require.Equal(t, want.Limit, have.Limit, soft)
		require.Equal(t, want.Child, have.Child, soft)
		require.GreaterOrEqual(t, have.Limit.Cur, uint64(199))
	}
}

// TestAllThreadsAreOnOneProcessor: and so is nothing that the program starts.
func TestAllThreadsAreOnOneProcessor(t *testing.T) {
	t.Parallel()
	ours, theirs := program(t, true), program(t, false)
	have, want := run(t, ours, []string{"a"}, []string{}), run(t, theirs, []string{"a"}, []string{})
	require.Equal(t, want.Child, have.Child)
	require.Greater(t, len(have.Threads), 1)
	if runtime.GOARCH != "amd64" {
		require.Equal(t, want.Threads[0], have.Threads[0])
		return
	}
	one, count := have.Threads[0], 0
	for _, digit := range strings.ReplaceAll(one, ",", "") {
		bit, err := strconv.ParseUint(string(digit), 16, 4)
		require.NoError(t, err)
		count += bits.OnesCount64(bit)
	}
	require.Equal(t, 1, count, one)
	for _, mask := range have.Threads {
		require.Equal(t, one, mask)
	}
}

// TestTheMainThreadIsAsPatientAsEver: what the program that started it had set is not lost.
func TestTheMainThreadIsAsPatientAsEver(t *testing.T) {
	t.Parallel()
	ours, theirs := program(t, true), program(t, false)
	for _, slack := range []string{"50000", "70000", "900000"} {
		set := func(path string) told {
			script := "echo " + slack + " > /proc/$$/timerslack_ns && exec " + path
			return run(t, "/bin/sh", []string{"sh", "-c", script}, []string{})
		}
		have, want := set(ours), set(theirs)
		require.Equal(t, slack, want.Slacks[0])
		require.Equal(t, slack, have.Slacks[0])
		require.Equal(t, want.Child, have.Child)
	}
}

func many(n int) (env []string) {
	for i := range n {
		env = append(env, fmt.Sprintf("X%d=1", i))
	}
	return env
}
