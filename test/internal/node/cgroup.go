//go:build linux

package node

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// RemoveCgroup removes a control group and those below it in every hierarchy; name is its path below the root. The kernel
// takes a moment to see that their processes are gone.
func RemoveCgroup(name string) error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range append(tops, "/sys/fs/cgroup"+name) {
		for wait := time.Millisecond; ; wait *= 2 {
			err := removeTree(top)
			if err == nil || wait > 2*time.Second {
				errs = append(errs, err)
				break
			}
			time.Sleep(wait)
		}
	}
	return errors.Join(errs...)
}

func removeTree(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		if e := unix.Rmdir(dir); e != nil && e != unix.ENOENT {
			err = errors.Join(err, &fs.PathError{Op: "rmdir", Path: dir, Err: e})
		}
	}
	return err
}
