//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// snapshot copies the executables of a directory to the scratch directory, so that neither a build nor a clean-up changes
// them on the way. Names of one file stay names of one file.
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
	in, err := os.Open(filepath.Join(from, name))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(to, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
