//go:build linux

// Package kubetest gives tests a real Kubernetes API server on etcd, in a network namespace of its own, and builds the
// programs of Kubernetes that tests run, from its Go module. For tests only.
package kubetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

// Version is the version of Kubernetes that [Binaries] builds.
const Version = "v1.36.3"

// The programs.
const (
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
	Kubectl           = "kubectl"
)

// Names are those of all programs.
var Names = []string{APIServer, ControllerManager, Scheduler, Kubelet, Proxy, Kubectl}

// Env names a directory with ready programs, which are then used as they are.
const Env = "CNIBLOCKS_KUBE_BIN"

const module = "k8s.io/kubernetes"

// Binaries returns a directory that holds at least the named programs, static; without names it is all of [Names]. What
// is missing is built first and kept in [os.UserCacheDir]: kube-apiserver takes some four minutes of two processors, all of
// them five, and 3 GB of the go command's build cache. Several processes may call it at once: one builds, the others
// wait. It needs the go command, and a module proxy or a module cache that has it all.
func Binaries(names ...string) (dir string, err error) {
	if len(names) == 0 {
		names = Names
	}
	if dir = os.Getenv(Env); dir != "" {
		if missing := missingIn(dir, names); len(missing) > 0 {
			return "", fmt.Errorf("%s=%s: %s is not there", Env, dir, strings.Join(missing, ", "))
		}
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for the programs of Kubernetes (set HOME or XDG_CACHE_HOME): %w", err)
	}
	dir = filepath.Join(cache, "cniblocks", "kubernetes-"+Version+"-"+runtime.GOARCH)
	if len(missingIn(dir, names)) == 0 {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("programs of Kubernetes: %w", err)
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("programs of Kubernetes: %w", err)
	}
	defer unlock()
	return dir, build(dir, missingIn(dir, names))
}

func missingIn(dir string, names []string) (missing []string) {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// build builds the named programs, each moved into dir when it is whole.
func build(dir string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("programs of Kubernetes: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := writeModule(tmp); err != nil {
		return fmt.Errorf("programs of Kubernetes: %w", err)
	}
	for _, name := range names {
		if _, err := gobuild.Go(tmp, "build", "-mod=mod", "-trimpath", "-ldflags", ldflags(), "-o", name, module+"/cmd/"+name); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("programs of Kubernetes: %w", err)
		}
	}
	return nil
}

// ldflags state the version, which the programs compare among each other.
func ldflags() string {
	const pkg = "k8s.io/component-base/version."
	minor := strings.Split(Version, ".")[1]
	flags := []string{"-s", "-w"}
	for _, kv := range []string{"gitVersion=" + Version, "gitMajor=1", "gitMinor=" + minor, "gitTreeState=clean", "buildDate=1970-01-01T00:00:00Z"} {
		flags = append(flags, "-X", pkg+kv)
	}
	return strings.Join(flags, " ")
}

// writeModule writes the go.mod of a module that requires all that Kubernetes does. In its own go.mod the parts that are
// published as modules of their own are directories of its tree, which the module lacks: they are replaced by those
// modules, v0.X.Y for v1.X.Y.
func writeModule(dir string) error {
	goMod, goSum, err := download(dir)
	if err != nil {
		return err
	}
	out, err := gobuild.Go(dir, "mod", "edit", "-json", goMod)
	if err != nil {
		return err
	}
	var m struct {
		Go      string
		Require []struct{ Path, Version string }
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("go.mod of %s: %w", module, err)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "module kube\n\ngo %s\n\nrequire %s %s\n", m.Go, module, Version)
	part := "v0" + strings.TrimPrefix(Version, "v1")
	parts := map[string]bool{}
	for _, r := range m.Replace {
		if strings.HasPrefix(r.New.Path, "./staging/") {
			parts[r.Old.Path] = true
			fmt.Fprintf(&text, "replace %s => %[1]s %s\n", r.Old.Path, part)
		}
	}
	for _, r := range m.Require {
		if !parts[r.Path] {
			fmt.Fprintf(&text, "require %s %s\n", r.Path, r.Version)
		}
	}
	sums, err := os.ReadFile(goSum)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), text.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644),
	)
}

// download fetches the module and finds its go.mod and go.sum.
func download(dir string) (goMod, goSum string, err error) {
	out, err := gobuild.Go(dir, "mod", "download", "-json", module+"@"+Version)
	if err != nil {
		return "", "", err
	}
	var m struct{ GoMod, Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return m.GoMod, filepath.Join(m.Dir, "go.sum"), nil
}
