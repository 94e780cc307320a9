//go:build linux

package sweep

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// records removes what the flannel plugin has on record of a network, once its interfaces are gone.
func (s *sweeper) records() {
	for _, d := range s.Found.Records {
		if !s.wants(d.Network) {
			continue
		}
		if !s.Disk {
			if s.here(d.Network) {
				s.keep(d.Network, "records", d.Path, "they may be those of another namespace; name the directory with --data-dir if they are not")
			}
			continue
		}
		s.add(Step{Network: d.Network, Kind: "records", Name: d.Path, Note: plural(d.Records, "attachment") + " of the flannel plugin",
			last: true, do: func(context.Context) error {
				return within(d.DataDir, func(root *os.Root) error { return removeRecords(root, strings.TrimPrefix(d.Path, d.DataDir+"/")) })
			}})
	}
}

// removeRecords removes the records and the names that flannel's own plugin knows them by: the container's ID. The records of
// a container whose ID is too long for a part of a name are in a directory of that name.
func removeRecords(root *os.Root, dir string) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	errs := []error{there(err)}
	remove := func(record, id string) {
		if id != "" && sameFile(root, record, id) {
			errs = append(errs, there(root.Remove(id)))
		}
		errs = append(errs, there(root.Remove(record)))
	}
	for _, e := range entries {
		record := path.Join(dir, e.Name())
		if !e.IsDir() {
			id, _, ok := strings.Cut(e.Name(), ":")
			remove(record, map[bool]string{true: id}[ok])
			continue
		}
		within, err := fs.ReadDir(root.FS(), record)
		errs = append(errs, there(err))
		for _, i := range within {
			remove(path.Join(record, i.Name()), e.Name())
		}
		errs = append(errs, there(root.Remove(record)))
	}
	errs = append(errs, there(root.Remove(dir)))
	if parent := path.Dir(dir); parent != "." {
		_ = root.Remove(parent) // if it was the last
	}
	return errors.Join(errs...)
}

func sameFile(root *os.Root, a, b string) bool {
	one, err := root.Lstat(a)
	if err != nil {
		return false
	}
	other, err := root.Lstat(b)
	return err == nil && os.SameFile(one, other)
}

// there passes over what is gone already.
func there(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
