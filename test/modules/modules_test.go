package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/modfile"
)

const root = "../.."

// shared is a module cache for all tests: each of them may fill it.
var shared struct {
	dir   string
	serve func() (env []string, err error) // of the tree as it is
}

func TestMain(m *testing.M) {
	var err error
	if shared.dir, err = os.MkdirTemp("", "cniblocks-modules-"); err != nil {
		panic(err)
	}
	shared.serve = sync.OnceValues(func() ([]string, error) {
		t, err := readTree(root)
		if err != nil {
			return nil, err
		}
		version, err := t.version()
		if err != nil {
			return nil, err
		}
		proxy := filepath.Join(shared.dir, "proxy")
		if err := t.serve(proxy, version); err != nil {
			return nil, err
		}
		return environ(t[0], proxy, filepath.Join(shared.dir, "cache"))
	})
	code := m.Run()
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

func here(t *testing.T) (tree, string) {
	t.Helper()
	all, err := readTree(root)
	require.NoError(t, err)
	version, err := all.version()
	require.NoError(t, err)
	return all, version
}

// outside is an environment where the tree's modules are at a version. Sums are checked where a go.sum has them: those of a
// fresh module would be asked for from afar, for what the go.sum files here vouch for already. Programs are built as make
// build does, so that what others need of the build cache is there, and stays.
func outside(t *testing.T) []string {
	t.Helper()
	env, err := shared.serve()
	require.NoError(t, err)
	return append(slices.Clip(env), "GOSUMDB=off", "CGO_ENABLED=0", "GOFLAGS=-modcacherw -mod=mod -trimpath")
}

func goIn(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "go %s\n%s%s", strings.Join(args, " "), out, errs.String())
	return string(out)
}

func TestEveryProgramInstallsAtAVersion(t *testing.T) {
	t.Parallel()
	all, version := here(t)
	bin := t.TempDir()
	env := append(outside(t), "GOBIN="+bin)
	for _, m := range all.published() {
		programs := strings.Fields(goIn(t, m.at(""), nil, "list", "-f", `{{if eq .Name "main"}}{{.ImportPath}}@`+version+`{{end}}`, "./..."))
		if len(programs) > 0 {
			goIn(t, bin, env, append([]string{"install"}, programs...)...)
		}
	}
	out, err := exec.Command(filepath.Join(bin, "cniblocks"), "version").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "cniblocks "+version+",")
	out, err = exec.Command(filepath.Join(bin, "plugins"), "--list").Output()
	require.NoError(t, err)
	require.Contains(t, strings.Fields(string(out)), "bridge")
	for _, example := range []string{"allocator", "plugin", "quickstart"} {
		require.FileExists(t, filepath.Join(bin, example))
	}
}

func TestAProgramThatImportsVethMeetsNoEtcdNoKubernetesNoGRPC(t *testing.T) {
	t.Parallel()
	all, version := here(t)
	heavy := regexp.MustCompile(`\S*(?i:etcd|k8s|kubernetes|grpc|uber\.org|klog|logr)\S*`)
	graph := func(pkg string) string {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), fmt.Appendf(nil, "module importer\n\ngo %s\n", all[0].file.Go.Version), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), fmt.Appendf(nil, "package main\n\nimport _ %q\n\nfunc main() {}\n", pkg), 0o644))
		env := outside(t)
		goIn(t, dir, env, "get", pkg+"@"+version)
		goIn(t, dir, env, "build")
		out := goIn(t, dir, env, "mod", "graph")
		require.Contains(t, out, " "+all[0].path()+"@"+version+"\n")
		return out
	}
	require.Empty(t, heavy.FindAllString(graph(all[0].path()+"/veth"), -1))
	require.Contains(t, heavy.FindAllString(graph(all[0].path()+"/peer/etcd"), -1), "google.golang.org/grpc@"+required(t, all, "peer/etcd", "google.golang.org/grpc"))
	require.Contains(t, heavy.FindAllString(graph(all[0].path()+"/peer/kube"), -1), "k8s.io/client-go@"+required(t, all, "peer/kube", "k8s.io/client-go"))
}

// required is the version at which the module in dir requires another one.
func required(t *testing.T, all tree, dir, path string) string {
	t.Helper()
	for _, m := range all {
		for _, r := range m.file.Require {
			if m.dir == dir && r.Mod.Path == path {
				return r.Mod.Version
			}
		}
	}
	require.Fail(t, "not required", "%s by %s", path, dir)
	return ""
}

func TestAReleaseMakesEveryModuleWholeWithoutTheWorkspace(t *testing.T) {
	t.Parallel()
	all, _ := here(t)
	dir := filepath.Join(t.TempDir(), "tree")
	for _, m := range all {
		files, err := m.files()
		require.NoError(t, err)
		for _, f := range files {
			data, err := os.ReadFile(m.at(f.Path()))
			require.NoError(t, err)
			to := filepath.Join(dir, m.dir, f.Path())
			require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
			require.NoError(t, os.WriteFile(to, data, 0o644))
		}
	}
	const version = "v0.98.0"
	released, err := readTree(dir)
	require.NoError(t, err)
	require.ErrorContains(t, released.release("0.98"), "0.98")
	require.NoError(t, released.release(version))

	// In the workspace nobody is asked for the version, of which there is no tag yet.
	goIn(t, dir, append(os.Environ(), "GOPROXY=off", "GOFLAGS="), "list", "work")

	released, err = readTree(dir)
	require.NoError(t, err)
	told, err := released.version()
	require.NoError(t, err)
	require.Equal(t, version, told)
	proxy := t.TempDir()
	require.NoError(t, released.serve(proxy, version))
	env, err := environ(released[0], proxy, filepath.Join(shared.dir, "cache"))
	require.NoError(t, err)
	for _, m := range released.published() {
		goIn(t, m.at(""), append(env, "GOFLAGS=-modcacherw -mod=readonly"), "list", "-deps", "-test", "./...")
	}
}

func TestNoModuleIsReplaced(t *testing.T) {
	t.Parallel()
	all, _ := here(t)
	for _, m := range all {
		require.Empty(t, m.file.Replace, m.dir)
	}
	data, err := os.ReadFile(filepath.Join(root, "go.work"))
	require.NoError(t, err)
	work, err := modfile.ParseWork("go.work", data, nil)
	require.NoError(t, err)
	require.Empty(t, work.Replace)
}
