package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/binaries"
	"github.com/cniblocks/cniblocks/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

func bin(t *testing.T) string {
	t.Helper()
	dir, err := binaries.Build()
	require.NoError(t, err)
	return dir
}

type answer struct {
	status    int
	out, errs string
}

// run runs a program with that name as its argument 0, and with nothing in its environment but what is given.
func run(t *testing.T, program, arg0 string, args, env []string, stdin string) answer {
	t.Helper()
	cmd := &exec.Cmd{Path: program, Args: append([]string{arg0}, args...), Env: append([]string{}, env...), Stdin: strings.NewReader(stdin)}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func names() []string { return slices.Sorted(maps.Keys(plugins(nil))) }

func TestEveryPluginIsListedAndLinked(t *testing.T) {
	t.Parallel()
	dir := bin(t)
	a := run(t, filepath.Join(dir, "bridge"), "bridge", []string{"--list"}, nil, "")
	require.Zero(t, a.status)
	require.Equal(t, strings.Join(names(), "\n")+"\n", a.out)
	require.Empty(t, a.errs)
	first, err := os.Stat(filepath.Join(dir, "bridge"))
	require.NoError(t, err)
	for _, name := range names() {
		st, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, os.SameFile(first, st), name)
	}
}

func TestTheProgramIsStatic(t *testing.T) {
	t.Parallel()
	f, err := elf.Open(filepath.Join(bin(t), "bridge"))
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type)
	}
	libs, err := f.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libs)
}

func TestHelpGoesToStandardOutputAndMistakesToStandardError(t *testing.T) {
	t.Parallel()
	program := filepath.Join(bin(t), "bridge")
	for _, flag := range []string{"--help", "-h"} {
		a := run(t, program, "bridge", []string{flag}, nil, "")
		require.Zero(t, a.status)
		require.Empty(t, a.errs)
		require.Contains(t, a.out, "bridge: a CNI plugin of cniblocks; one program serves as "+strings.Join(names(), ", "))
	}
	for _, args := range [][]string{nil, {"--nonsense"}, {"--help", "x"}, {"add"}} {
		a := run(t, program, "bridge", args, nil, "")
		require.Equal(t, 1, a.status, args)
		require.Empty(t, a.out)
		require.Contains(t, a.errs, "A container runtime calls it")
	}
}

func TestAnUnknownNameSaysWhichThereAre(t *testing.T) {
	t.Parallel()
	program := filepath.Join(bin(t), "bridge")
	for _, name := range []string{"nonsense", "", ".", "/", "bridge2", "Bridge"} {
		a := run(t, program, name, nil, []string{"CNI_COMMAND=VERSION"}, "")
		require.Equal(t, 1, a.status, name)
		require.Empty(t, a.out, name)
		require.Contains(t, a.errs, "one program serves as "+strings.Join(names(), ", "))
	}
}

func TestEveryNameAnswersVERSIONHoweverItIsCalled(t *testing.T) {
	t.Parallel()
	program := filepath.Join(bin(t), "bridge")
	for _, name := range names() {
		for _, arg0 := range []string{name, "./" + name, "/opt/cni/bin/" + name} {
			a := run(t, program, arg0, nil, []string{"CNI_COMMAND=VERSION"}, `{"cniVersion": "1.1.0"}`)
			require.Zero(t, a.status, "%s: %s", name, a.out)
			info, err := (&version.PluginDecoder{}).Decode([]byte(a.out))
			require.NoError(t, err)
			require.Equal(t, cni.Versions, info.SupportedVersions())
		}
	}
}

func TestTheNameSaysWhichPluginAnswers(t *testing.T) {
	t.Parallel()
	dir := bin(t)
	link := filepath.Join(t.TempDir(), "loopback")
	require.NoError(t, os.Symlink(filepath.Join(dir, "bridge"), link))
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/not-there", "CNI_IFNAME=eth0", "CNI_PATH=" + dir}
	for name, says := range map[string]string{"bridge": "CNI_NETNS: ", "loopback": "CNI_NETNS: ", "host-local": `key "ipam" is missing; host-local`,
		"host-gw": "of host-gw has no", "overlay": `key "encap"`, "flannel": `key "subnetFile": `} {
		conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "net", "type": %q}`, name)
		program := filepath.Join(dir, name)
		if name == "loopback" {
			program = link
		}
		a := run(t, program, program, nil, env, conf)
		require.Equal(t, 1, a.status, name)
		var e struct {
			Version string `json:"cniVersion"`
			Code    cni.Code
			Msg     string
		}
		require.NoError(t, json.Unmarshal([]byte(a.out), &e), "%s: %s", name, a.out)
		require.Equal(t, "1.0.0", e.Version)
		require.Contains(t, e.Msg, says, name)
		require.NotEqual(t, cni.ErrInternal, e.Code)
		require.Contains(t, a.errs, e.Msg, "a person reads it too")
	}
	require.Len(t, names(), 6, "one of them is not tested here")
}

func TestALoopbackWorksWithNothingInTheEnvironmentButTheRequest(t *testing.T) {
	t.Parallel()
	pod := nstest.New(t)
	at := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	a := run(t, filepath.Join(bin(t), "loopback"), "loopback", nil, []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=" + at,
		"CNI_IFNAME=lo", "CNI_PATH=/nowhere"}, `{"cniVersion": "1.0.0", "name": "net", "type": "loopback"}`)
	require.Zero(t, a.status, "%s %s", a.out, a.errs)
	res, err := cni.ParseResult([]byte(a.out))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1/8", res.IPs[0].Address.String())
}

// TestAnExecutedPluginHasTheEnvironmentOfTheCaller is about what internal/start adds for the program itself.
func TestAnExecutedPluginHasTheEnvironmentOfTheCaller(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	syscall.ForkLock.RLock() // no child that is just being started may hold it open for writing
	teller := "#!/bin/sh\n{ export -p; grep Cpus_allowed: /proc/$$/status; } > " + said + "\n"
	err := os.WriteFile(filepath.Join(dir, "teller"), []byte(teller), 0o700)
	syscall.ForkLock.RUnlock()
	require.NoError(t, err)
	processors, err := exec.Command("grep", "Cpus_allowed:", "/proc/self/status").Output()
	require.NoError(t, err)
	conf := `{"cniVersion":"1.1.0","name":"n","type":"bridge","bridge":"cb-none","ipam":{"type":"teller"}}`
	for stated, want := range map[string]string{"X=1": "", "GOMAXPROCS=7": "GOMAXPROCS='7'"} {
		a := run(t, filepath.Join(bin(t), "bridge"), "bridge", nil, []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + dir, stated}, conf)
		require.Zero(t, a.status, a.out+a.errs)
		env, err := os.ReadFile(said)
		require.NoError(t, err)
		require.Contains(t, string(env), "CNI_COMMAND='STATUS'")
		require.Equal(t, want != "", strings.Contains(string(env), "GOMAXPROCS"), "%s", env)
		require.Contains(t, string(env), want)
		require.Contains(t, string(env), string(processors))
	}
}
