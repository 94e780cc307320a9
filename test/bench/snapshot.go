//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// snapshot copies the executables of a directory to the scratch directory, so that neither a build nor a clean-up changes
// them on the way. Names of one file stay names of one file. Each file is one write, as cniblocks install makes it: the
// kernel then keeps it in large pages, which takes a fifth off the start of either side's plugins.
func snapshot(from, name string) (to string, err error) {
	to = filepath.Join(scratch.Dir(), name)
	if err := os.Mkdir(to, 0o755); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return "", fmt.Errorf("plugins: %w", err)
	}
	var done []named
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(from, e.Name()))
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			continue
		}
		if err := copyOnce(from, to, e.Name(), info, done); err != nil {
			return "", fmt.Errorf("plugins: %w", err)
		}
		done = append(done, named{info, e.Name()})
	}
	return to, nil
}

// named is a file's information under the name by which it was found, which a symbolic link's is not.
type named struct {
	os.FileInfo
	name string
}

func copyOnce(from, to, name string, info os.FileInfo, done []named) error {
	for _, d := range done {
		if os.SameFile(d.FileInfo, info) {
			return os.Link(filepath.Join(to, d.name), filepath.Join(to, name))
		}
	}
	program, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), program, 0o755) //nolint:gosec // to be executed
}
