//go:build linux

package start

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/gobuild"
)

type told struct {
	Args, Env        []string
	Processors, Page int
}

// program builds testdata/program, entered at entry where there is one.
func program(t *testing.T) func(args, env []string) told {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	flags := ""
	if runtime.GOARCH == "amd64" {
		flags = "-E=github.com/cniblocks/cniblocks/internal/start.entry"
	}
	_, err := gobuild.Go(".", "build", "-trimpath", "-ldflags", flags, "-o", path, "./testdata/program")
	require.NoError(t, err)
	return func(args, env []string) (what told) {
		out, err := (&exec.Cmd{Path: path, Args: args, Env: env}).Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, &what), "%s", out)
		return what
	}
}

func TestAProgramStartsWithOneProcessorUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	run := program(t)
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
		told := run(s.args, s.env)
		require.Equal(t, s.args, told.Args, name)
		require.Equal(t, s.processors, told.Processors, name)
		require.Equal(t, unique(append(s.env, s.add...)), told.Env, name)
		require.Equal(t, 4096, told.Page, "%s: the auxiliary vector", name)
	}
}

// unique is what the runtime keeps of variables of one name: the first.
func unique(env []string) (out []string) {
	seen := map[string]bool{}
	for _, kv := range env {
		if key, _, _ := strings.Cut(kv, "="); !seen[key] {
			seen[key] = true
			out = append(out, kv)
		}
	}
	return out
}

func many(n int) (env []string) {
	for i := range n {
		env = append(env, fmt.Sprintf("X%d=1", i))
	}
	return env
}
