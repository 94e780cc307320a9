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

// RecordsPrefix begins the name of a network's records in a data directory of the flannel plugin.
const RecordsPrefix = ".attachments-"

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
			network, ok := strings.CutPrefix(e.Name(), RecordsPrefix)
			if !ok || !e.IsDir() || !cni.ValidName(network) {
				continue
			}
			d := RecordDir{DataDir: dir, Path: filepath.Join(dir, e.Name()), Network: network}
			records, err := os.ReadDir(d.Path)
			errs = append(errs, err)
			d.Records = len(records)
			r.n.Records = append(r.n.Records, d)
		}
	}
	return errors.Join(errs...)
}
