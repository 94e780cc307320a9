//go:build linux

package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

// FlanneldVersion is the version of github.com/flannel-io/flannel that Flanneld builds.
const FlanneldVersion = "v0.28.10"

const flannelModule = "github.com/flannel-io/flannel"

// leftOut are the backends that are built empty: udp needs a C compiler, tencent-vpc a module that module proxies refuse.
var leftOut = []string{"udp", "tencentvpc"}

// The files of [Flannel].
const (
	flanneld        = "flanneld"
	installConf     = "install-conf"
	flannelManifest = "kube-flannel.yml"
)

var flannelFiles = []string{flanneld, installConf, flannelManifest}

// Flanneld returns the path of a flanneld without the backends udp and tencent-vpc. As with [Build] it is built on the
// first call, which takes minutes of a processor, and kept.
func Flanneld() (path string, err error) {
	dir, err := Flannel()
	return filepath.Join(dir, flanneld), err
}

// Flannel returns a directory with what a cluster with flannel is made of: flanneld as [Flanneld] has it, the program
// install-conf, which puts the conflist of a ConfigMap in place, and flannel's own manifest, kube-flannel.yml.
func Flannel() (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for flannel (set HOME or XDG_CACHE_HOME): %w", err)
	}
	dir = filepath.Join(cache, "cniblocks", "flannel-"+FlanneldVersion, toolchain())
	if missing, err := missingIn(dir, flannelFiles); err != nil || len(missing) == 0 {
		return dir, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("flannel: %w", err)
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("flannel: %w", err)
	}
	defer unlock()
	missing, err := missingIn(dir, flannelFiles)
	if err != nil || len(missing) == 0 {
		return dir, err
	}
	return dir, buildFlannel(dir)
}

// buildFlannel builds a copy of the module, since nothing may be left out of the one in the module cache.
func buildFlannel(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("flannel: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	src, err := flannelSource(tmp)
	if err != nil {
		return fmt.Errorf("flannel: %w", err)
	}
	for name, pkg := range map[string]string{flanneld: ".", installConf: "./cmd/install_conf"} {
		if _, err := gobuild.Go(src, "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tmp, name), pkg); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(src, "Documentation", flannelManifest), filepath.Join(tmp, flannelManifest)); err != nil {
		return fmt.Errorf("flannel: %w", err)
	}
	for _, name := range flannelFiles {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("flannel: %w", err)
		}
	}
	return nil
}

// flannelSource puts a copy of the module into a directory, with those backends empty that are left out.
func flannelSource(tmp string) (src string, err error) {
	out, err := gobuild.Go(tmp, "mod", "download", "-json", flannelModule+"@"+FlanneldVersion)
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	src = filepath.Join(tmp, "src")
	if err := os.CopyFS(src, os.DirFS(module.Dir)); err != nil {
		return "", err
	}
	for _, name := range leftOut {
		backend := filepath.Join(src, "pkg", "backend", name)
		if err := errors.Join(os.RemoveAll(backend), os.Mkdir(backend, 0o755),
			os.WriteFile(filepath.Join(backend, "empty.go"), []byte("package "+name+"\n"), 0o644)); err != nil {
			return "", err
		}
	}
	return src, nil
}
