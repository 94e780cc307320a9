//go:build linux

package reference

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

// ContainerdVersion is the version of containerd that [Containerd] builds.
const ContainerdVersion = "v2.4.2"

const containerdModule = "github.com/containerd/containerd/v2"

var containerdPrograms = []string{"containerd", "containerd-shim-runc-v2", "ctr"}

// Containerd returns a directory with the programs of containerd 2, which distributions of today do not have yet, without
// runc. As with [Build] they are built on the first call, which takes minutes of a processor, and kept.
func Containerd() (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for containerd (set HOME or XDG_CACHE_HOME): %w", err)
	}
	dir = filepath.Join(cache, "cniblocks", "containerd-"+ContainerdVersion, toolchain())
	if missing, err := missingIn(dir, containerdPrograms); err != nil || len(missing) == 0 {
		return dir, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("containerd: %w", err)
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("containerd: %w", err)
	}
	defer unlock()
	missing, err := missingIn(dir, containerdPrograms)
	if err != nil || len(missing) == 0 {
		return dir, err
	}
	return dir, buildContainerd(dir, missing)
}

func buildContainerd(dir string, names []string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	args := []string{"install", "-trimpath", "-ldflags", "-s -w -X " + containerdModule + "/version.Version=" + ContainerdVersion}
	for _, name := range names {
		args = append(args, containerdModule+"/cmd/"+name+"@"+ContainerdVersion)
	}
	if _, err := gobuild.Go(tmp, args...); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return nil
}
