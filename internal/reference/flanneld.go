//go:build linux

package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/internal/gobuild"
)

// FlanneldVersion is the version of github.com/flannel-io/flannel that Flanneld builds.
const FlanneldVersion = "v0.28.10"

const flannelModule = "github.com/flannel-io/flannel"

// leftOut are the backends that are built empty: udp needs a C compiler, tencent-vpc a module that module proxies refuse.
var leftOut = []string{"udp", "tencentvpc"}

// Flanneld returns the path of a flanneld without the backends udp and tencent-vpc. As with [Build] it is built on the
// first call, which takes minutes of a processor, and kept.
func Flanneld() (path string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for flanneld (set HOME or XDG_CACHE_HOME): %w", err)
	}
	dir := filepath.Join(cache, "cniblocks", "flannel-"+FlanneldVersion, toolchain())
	path = filepath.Join(dir, "flanneld")
	if missing, err := missingIn(dir, []string{"flanneld"}); err != nil || len(missing) == 0 {
		return path, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("flanneld: %w", err)
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("flanneld: %w", err)
	}
	defer unlock()
	if missing, err := missingIn(dir, []string{"flanneld"}); err != nil || len(missing) == 0 {
		return path, err
	}
	return path, buildFlanneld(dir)
}

// buildFlanneld builds a copy of the module, since nothing may be left out of the one in the module cache.
func buildFlanneld(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("flanneld: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	out, err := gobuild.Go(tmp, "mod", "download", "-json", flannelModule+"@"+FlanneldVersion)
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return fmt.Errorf("flanneld: %w", err)
	}
	src := filepath.Join(tmp, "src")
	if err := os.CopyFS(src, os.DirFS(module.Dir)); err != nil {
		return fmt.Errorf("flanneld: %w", err)
	}
	for _, name := range leftOut {
		backend := filepath.Join(src, "pkg", "backend", name)
		if err := errors.Join(os.RemoveAll(backend), os.Mkdir(backend, 0o755),
			os.WriteFile(filepath.Join(backend, "empty.go"), []byte("package "+name+"\n"), 0o644)); err != nil {
			return fmt.Errorf("flanneld: %w", err)
		}
	}
	if _, err := gobuild.Go(src, "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tmp, "flanneld"), "."); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "flanneld"), filepath.Join(dir, "flanneld"))
}
