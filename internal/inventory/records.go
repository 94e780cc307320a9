//go:build linux

package inventory

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// RecordsName is the directory, in a data directory of the flannel plugin, below which each network has one of its own.
const RecordsName = ".attachments"

// readRecords counts what the flannel plugin has on record.
func (r *reader) readRecords() error {
	dirs := r.DataDirs
	if len(dirs) == 0 {
		dirs = append([]string{DefaultFlannelDir}, dataDirs(r.ConfDir)...)
	}
	dirs = slices.Clone(dirs)
	slices.Sort(dirs)
	var errs []error
	for _, dir := range slices.Compact(dirs) {
		names, err := subdirs(filepath.Join(dir, RecordsName))
		errs = append(errs, err)
		for _, name := range names {
			d := RecordDir{DataDir: dir, Path: filepath.Join(dir, RecordsName, name), Network: name}
			entries, err := os.ReadDir(d.Path)
			errs = append(errs, err)
			d.Records = len(entries)
			r.n.Records = append(r.n.Records, d)
		}
	}
	return errors.Join(errs...)
}
