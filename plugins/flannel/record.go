package flannel

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// record is what the delegate was asked for one attachment, on disk: <dataDir>/.attachments-<network>/<container>:<interface>.
// Where a part of that would pass the 255 bytes of a file's name, it is a directory and a file: .attachments/<network>,
// <container>/<interface>.
//
// Flannel's own plugin has one file for a container, <dataDir>/<container>. That name is a hard link to the first record
// of a container, so that it finds what it needs on the way back to it. The link count tells whose the file is.
type record struct {
	dataDir, network string
	cni.Attachment
}

func (c *conf) record(r *cni.Request) record { return record{c.DataDir, r.Network, r.Attachment()} }

const maxFileName = 255 // bytes (NAME_MAX)

func dirOf(dataDir, network string) string {
	if name := ".attachments-" + network; len(name) <= maxFileName {
		return filepath.Join(dataDir, name)
	}
	return filepath.Join(dataDir, ".attachments", network)
}

func (r record) path() string {
	name := r.ContainerID + ":" + r.IfName
	if len(name) > maxFileName {
		name = filepath.Join(r.ContainerID, r.IfName)
	}
	return filepath.Join(dirOf(r.dataDir, r.network), name)
}

func (r record) theirs() string { return filepath.Join(r.dataDir, r.ContainerID) }

// read is the delegate's configuration, from flannel's own file if there is no other. One that is torn, or of another
// network, is none.
func (r record) read() (lazyjson.Object, bool) {
	for _, path := range []string{r.path(), r.theirs()} {
		if d, ok := parse(path); ok && d.Text("name") == r.network {
			return d, true
		}
	}
	return nil, false
}

func parse(path string) (lazyjson.Object, bool) {
	b, err := os.ReadFile(path)
	var d lazyjson.Object
	if err != nil || lazyjson.Unmarshal(b, &d) != nil || d.Text("type") == "" {
		return nil, false
	}
	return d, true
}

// create writes the record, and reports whether nothing says that the attachment is there already: a record that is
// there is left as it is. A write that is cut off leaves a torn record, which counts as none. A record without flannel's
// file beside it may be left over from an attachment that flannel's own plugin has deleted; [record.replace] makes it whole.
func (r record) create(req *cni.Request, config json.RawMessage) (first bool, err error) {
	config, err = lasting(config)
	if err != nil {
		return false, err
	}
	f, err := r.open()
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.Write(config)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(err, os.Remove(r.path()))
	}
	if !r.link(req) {
		d, ok := parse(r.theirs())
		return !ok || d.Text("name") != r.network || links(r.theirs()) > 1, nil
	}
	return true, nil
}

// link gives the record the name that flannel's own plugin looks for. It reports false if that is taken.
func (r record) link(req *cni.Request) bool {
	err := os.Link(r.path(), r.theirs())
	if errors.Is(err, fs.ErrExist) {
		return false
	}
	if err != nil {
		req.Warn("%v: flannel's own plugin could not delete this attachment", err)
	}
	return true
}

// open makes the file; who sweeps may take the directory away once more meanwhile.
func (r record) open() (f *os.File, err error) {
	for range 10 {
		if err = os.MkdirAll(filepath.Dir(r.path()), 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(r.path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, err
}

// replace makes the record that of the attachment that was just made.
func (r record) replace(req *cni.Request, config json.RawMessage) error {
	config, err := lasting(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path(), config, 0o600); err != nil {
		return err
	}
	r.link(req)
	return nil
}

// lasting is a configuration without what only one call is about.
func lasting(config json.RawMessage) (json.RawMessage, error) {
	var d lazyjson.Object
	if err := lazyjson.Unmarshal(config, &d); err != nil {
		return nil, err
	}
	for key := range d {
		if cni.Momentary(key) {
			delete(d, key)
		}
	}
	return lazyjson.Marshal(d)
}

// remove removes the record, and flannel's own if it is of this attachment.
func (r record) remove() error {
	var theirs error
	if r.ownsTheirs() {
		theirs = os.Remove(r.theirs())
	}
	err := errors.Join(gone(theirs), gone(os.Remove(r.path())))
	if dir := filepath.Dir(r.path()); dir != dirOf(r.dataDir, r.network) {
		err = errors.Join(err, vacate(dir))
	}
	return err
}

// ownsTheirs reports whether flannel's file is our record by another name, or its own of this network or of no sense.
func (r record) ownsTheirs() bool {
	theirs, err := os.Lstat(r.theirs())
	if err != nil || !theirs.Mode().IsRegular() {
		return false
	}
	if own, err := os.Lstat(r.path()); err == nil && os.SameFile(own, theirs) {
		return true
	}
	if links(r.theirs()) > 1 {
		return false // a record of another interface
	}
	d, ok := parse(r.theirs())
	return !ok || d.Text("name") == r.network
}

// links is how many names a file has: more than one if it is a record of ours.
func links(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return 0
	}
	return uint64(st.Nlink) //nolint:unconvert // it has 32 bits on arm64
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// theirIfName is the interface that flannel's own plugin is taken to have added: it does not write that down.
const theirIfName = "eth0"

// records are the attachments of a network that are on record, those in keep apart from the others.
func records(dataDir, network string, keep []cni.Attachment) (valid, stale []cni.Attachment, err error) {
	own, err := os.ReadDir(dirOf(dataDir, network))
	if err = gone(err); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	note := func(a cni.Attachment) {
		if slices.Contains(keep, a) {
			valid = append(valid, a)
		} else {
			stale = append(stale, a)
		}
		seen[a.ContainerID] = true
	}
	for _, e := range own {
		if id, ifName, ok := strings.Cut(e.Name(), ":"); ok {
			note(cni.Attachment{ContainerID: id, IfName: ifName})
		} else if e.IsDir() && cni.ValidName(e.Name()) {
			dir := filepath.Join(dirOf(dataDir, network), e.Name())
			within, err := os.ReadDir(dir)
			if err = gone(err); err != nil {
				return nil, nil, err
			}
			for _, i := range within {
				note(cni.Attachment{ContainerID: e.Name(), IfName: i.Name()})
			}
			if len(within) == 0 { // a kill came between the removals of file and directory
				if err := vacate(dir); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	theirs, err := os.ReadDir(dataDir)
	for _, e := range theirs {
		a := cni.Attachment{ContainerID: e.Name(), IfName: theirIfName}
		if seen[e.Name()] || !e.Type().IsRegular() || !cni.ValidName(e.Name()) {
			continue
		}
		if d, ok := parse(filepath.Join(dataDir, e.Name())); !ok || d.Text("name") != network {
			continue
		}
		if i := slices.IndexFunc(keep, func(k cni.Attachment) bool { return k.ContainerID == e.Name() }); i >= 0 {
			valid = append(valid, keep[i])
		} else {
			stale = append(stale, a)
		}
	}
	return valid, stale, gone(err)
}

// sweep removes the directory of a network's records if it is empty.
func sweep(dataDir, network string) error {
	dir := dirOf(dataDir, network)
	err := vacate(dir)
	if parent := filepath.Dir(dir); err == nil && parent != filepath.Clean(dataDir) {
		err = vacate(parent)
	}
	return err
}

// vacate removes a directory if it is empty.
func vacate(dir string) error {
	err := gone(os.Remove(dir))
	if errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}
