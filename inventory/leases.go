//go:build linux

package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/node"
)

const (
	nodeFile = "node.json" // see package node
	maxConf  = 1 << 20     // bytes of a file that anybody would have written as a conflist
)

// readLeases reads the lease files themselves: package ipam would mend its index by the way.
func (r *reader) readLeases() error {
	dirs := r.DataDirs
	if len(dirs) == 0 {
		dirs = append([]string{ipam.DefaultDataDir}, dataDirs(r.ConfDir)...)
	}
	slices.Sort(dirs)
	var errs []error
	for _, dir := range slices.Compact(dirs) {
		errs = append(errs, r.readDataDir(dir))
	}
	return errors.Join(errs...)
}

func (r *reader) readDataDir(dir string) error {
	names, err := subdirs(dir)
	if err != nil {
		return err
	}
	index, err := subdirs(filepath.Join(dir, mark.Index))
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(filepath.Join(dir, mark.Index)); err == nil && len(entries) == 0 {
		r.n.EmptyIndexes = append(r.n.EmptyIndexes, filepath.Join(dir, mark.Index))
	}
	var errs []error
	for _, name := range names {
		d := LeaseDir{DataDir: dir, Network: name, Owner: Foreign, Exists: true}
		if slices.Contains(index, name) {
			d.Owner = Ours
		}
		n, err := r.readNetwork(dir, name)
		errs = append(errs, err)
		d.Leases = n
		if _, lock := os.Lstat(filepath.Join(dir, name, "lock")); d.Owner == Ours || n > 0 || lock == nil {
			r.n.LeaseDirs = append(r.n.LeaseDirs, d) // else it is no directory of leases
		}
	}
	for _, name := range index {
		if !slices.Contains(names, name) {
			r.n.LeaseDirs = append(r.n.LeaseDirs, LeaseDir{DataDir: dir, Network: name, Owner: Ours})
		}
	}
	return errors.Join(errs...)
}

// subdirs are the directories in a directory whose names may be those of networks; none if it is not there.
func subdirs(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.IsDir() && cni.ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (r *reader) readNetwork(dir, network string) (n int, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, network))
	if err != nil {
		return 0, err
	}
	d := ipam.Dir{DataDir: dir, Network: network}
	for _, e := range entries {
		a, err := netip.ParseAddr(e.Name())
		if err != nil || a.String() != e.Name() {
			continue
		}
		o, err := d.Holder(a)
		if errors.Is(err, fs.ErrNotExist) {
			continue // released meanwhile, or what a crash left
		}
		if err != nil {
			return n, fmt.Errorf("lease %s: %w", filepath.Join(dir, network, e.Name()), err)
		}
		n++
		r.n.Leases = append(r.n.Leases, Lease{Dir: dir, Network: network, Addr: a, ContainerID: o.ContainerID, IfName: o.IfName})
	}
	return n, nil
}

// settleLeases says of a directory without an index whose it is.
func (r *reader) settleLeases() {
	for i := range r.n.LeaseDirs {
		d := &r.n.LeaseDirs[i]
		if d.Owner != Ours && d.Leases > 0 {
			d.Owner = Reference
		}
	}
}

// dataDirs are the directories of leases that configurations name: "dataDir" of every "ipam", wherever it stands.
func dataDirs(confDir string) (dirs []string) {
	entries, _ := os.ReadDir(confDir)
	for _, e := range entries {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		path := filepath.Join(confDir, e.Name())
		st, err := os.Stat(path)
		if err != nil || !st.Mode().IsRegular() || st.Size() > maxConf {
			continue
		}
		b, err := os.ReadFile(path)
		var conf any
		if err != nil || json.Unmarshal(b, &conf) != nil {
			continue
		}
		walk(conf, func(key string, v any) {
			if dir, ok := v.(string); ok && key == "dataDir" && filepath.IsAbs(dir) {
				dirs = append(dirs, filepath.Clean(dir))
			}
		})
	}
	return dirs
}

// walk calls f for the keys of all objects in a JSON value.
func walk(v any, f func(key string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			f(key, inner)
			walk(inner, f)
		}
	case []any:
		for _, inner := range v {
			walk(inner, f)
		}
	}
}

// readState finds the directories of networks below the state directory, and reads what says which node this is.
func (r *reader) readState() error {
	names, err := subdirs(r.StateDir)
	for _, name := range names {
		d := StateDir{Path: filepath.Join(r.StateDir, name), Network: name}
		if f, err := node.Read(r.NS, filepath.Join(d.Path, nodeFile)); err == nil {
			d.Here, d.Node, d.Prefixes = true, f.Self.Name, f.Network.Prefixes
			for _, family := range inet.Families {
				if a := f.Self.Endpoint(family).Addr; a.IsValid() {
					r.endpoints = append(r.endpoints, a)
				}
			}
		}
		r.n.State = append(r.n.State, d)
	}
	return err
}

// OfPrefix is the network that a destination or an address is of, by the prefixes of those whose state is of this
// namespace; empty if there is none or more than one.
func (n *Node) OfPrefix(p netip.Prefix) string {
	found := ""
	for _, d := range n.State {
		if !d.Here || !slices.ContainsFunc(d.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			continue
		}
		if found != "" {
			return ""
		}
		found = d.Network
	}
	return found
}
