//go:build linux

package inventory

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
)

// How a data directory of the flannel plugin names a network's records: a directory in longRecords where the name has no room
// for the prefix.
const recordsPrefix, longRecords = ".attachments-", ".attachments"

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
		entries, err := os.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			network, ok := strings.CutPrefix(e.Name(), recordsPrefix)
			if ok && e.IsDir() && cni.ValidName(network) {
				errs = append(errs, r.addRecords(dir, e.Name(), network))
			}
		}
		long, err := subdirs(filepath.Join(dir, longRecords))
		errs = append(errs, err)
		for _, network := range long {
			errs = append(errs, r.addRecords(dir, filepath.Join(longRecords, network), network))
		}
	}
	return errors.Join(errs...)
}

func (r *reader) addRecords(dir, name, network string) error {
	d := RecordDir{DataDir: dir, Path: filepath.Join(dir, name), Network: network}
	records, err := os.ReadDir(d.Path)
	d.Records = len(records)
	r.n.Records = append(r.n.Records, d)
	return err
}
