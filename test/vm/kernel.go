//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

// metaPackages name, through what they depend on, the newest kernel of a Debian release: the backport of 6.12 in the
// one before, the release's own in the one that has it.
var metaPackages = []string{"linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"}

type kernel struct {
	image   string
	version string
	modules string // its directory, with modules.dep
}

func findKernel(ctx context.Context, c config) (kernel, error) {
	if c.kernel != "" {
		return kernelAt(c.kernel, c.modules)
	}
	dir, err := cacheDir()
	if err != nil {
		return kernel{}, err
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	if k, err := cached(dir); err == nil {
		return k, nil
	}
	if err := fetch(ctx, dir); err != nil {
		return kernel{}, fmt.Errorf("no kernel: %w; fetch one by hand and name it with -kernel", err)
	}
	return cached(dir)
}

func kernelAt(image, modules string) (kernel, error) {
	image, err := filepath.Abs(image)
	if err != nil {
		return kernel{}, err
	}
	k := kernel{image: image, version: strings.TrimPrefix(filepath.Base(image), "vmlinuz-"), modules: modules}
	if _, err := os.Stat(image); err != nil {
		return kernel{}, err
	}
	if k.modules == "" {
		k.modules = filepath.Join(filepath.Dir(filepath.Dir(image)), "lib/modules", k.version)
	}
	if k.modules, err = filepath.EvalSymlinks(k.modules); err != nil {
		return kernel{}, fmt.Errorf("modules of kernel %s: %w; name them with -modules", image, err)
	}
	_, err = os.Stat(filepath.Join(k.modules, "modules.dep"))
	return k, err
}

// cached finds what fetch left; a directory without modules.dep is an unfinished one.
func cached(dir string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "kernel-*", "boot", "vmlinuz-*"))
	if err != nil {
		return kernel{}, err
	}
	for _, image := range images {
		if k, err := kernelAt(image, ""); err == nil {
			return k, nil
		}
	}
	return kernel{}, os.ErrNotExist
}

var dependsOn = regexp.MustCompile(`(?m)Depends: (linux-image-[0-9]\S*)$`)

// fetch unpacks a kernel package below dir, without installing it.
func fetch(ctx context.Context, dir string) error {
	var errs []error
	for _, meta := range metaPackages {
		out, err := output(ctx, "", "apt-cache", "depends", meta)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m := dependsOn.FindStringSubmatch(out)
		if m == nil {
			errs = append(errs, fmt.Errorf("package %s names no kernel", meta))
			continue
		}
		return unpack(ctx, dir, m[1])
	}
	return errors.Join(errs...)
}

func unpack(ctx context.Context, dir, pkg string) error {
	fmt.Fprintf(os.Stderr, "vm: fetching %s, once\n", pkg)
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { // apt downloads as a user of its own
		return err
	}
	if _, err := output(ctx, tmp, "apt-get", "download", "-q", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", pkg, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if _, err := output(ctx, "", "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	// Where /lib is a link to usr/lib, packages hold their modules there.
	if _, err := os.Stat(filepath.Join(root, "lib")); errors.Is(err, os.ErrNotExist) {
		if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
			return err
		}
	}
	version := strings.TrimPrefix(pkg, "linux-image-")
	if _, err := output(ctx, "", "depmod", "-b", root, version); err != nil {
		return err
	}
	final := filepath.Join(dir, "kernel-"+version)
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(root, final)
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program(name), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(out), nil
}

// program also looks where a plain user's PATH does not lead.
func program(name string) string {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	return name
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "cniblocks", "vm")
	return dir, os.MkdirAll(dir, 0o755)
}
