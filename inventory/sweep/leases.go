//go:build linux

package sweep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/ipam"
)

// leases gives back what the removed interfaces held, and with the last lease of a network removes its directory and our
// index. A lease whose owner still has an interface, which the reference made, stays.
func (s *sweeper) leases() {
	for _, d := range s.Found.LeaseDirs {
		if !s.wants(d.Network) || !s.Disk && !s.here(d.Network) {
			continue
		}
		path := filepath.Join(d.DataDir, d.Network)
		removed, left := s.owners(d)
		unknown := s.unknownPorts()
		switch {
		case d.Owner == inventory.Reference && s.Network != "" && len(removed) == 0:
			s.keep(d.Network, "leases", path, "the reference plugin made them")
			continue
		case d.Owner != inventory.Ours && len(removed) == 0:
			continue
		case !s.Disk && len(removed) == 0:
			s.keep(d.Network, "leases", path, "they may be those of another namespace; name the directory with --data-dir if they are not")
			continue
		case !s.Disk || len(unknown) > 0:
			if len(unknown) > 0 {
				s.keep(d.Network, "leases", path, "those that are not of a removed interface: %s may hold them, and its pod was not found", strings.Join(unknown, ", "))
			}
			s.release(d, removed)
			continue
		}
		s.retain(d, left)
	}
	for _, path := range s.Found.EmptyIndexes {
		if s.Disk && s.only() {
			s.add(Step{Network: s.Network, Kind: "leases", Name: path, Note: "empty", last: true, do: func(context.Context) error {
				return within(filepath.Dir(path), func(root *os.Root) error {
					_ = root.Remove(filepath.Base(path)) // it may have an index by now
					return nil
				})
			}})
		}
	}
}

// owners are who holds leases in a directory: those whose interfaces go, and those that keep one.
func (s *sweeper) owners(d inventory.LeaseDir) (removed, left []ipam.Owner) {
	r, l := map[ipam.Owner]bool{}, map[ipam.Owner]bool{}
	for _, lease := range s.Found.Leases {
		if lease.Network != d.Network || lease.Dir != d.DataDir {
			continue
		}
		for _, a := range s.Found.Attachments {
			if a.Network != d.Network || a.ContainerID != lease.ContainerID || !slices.Contains(a.Leased, lease.Addr) {
				continue
			}
			o := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
			if s.gone[a.Index] {
				r[o] = true
			} else {
				l[o] = true
			}
		}
	}
	order := func(a, b ipam.Owner) int { return strings.Compare(a.String(), b.String()) }
	return slices.SortedFunc(maps.Keys(r), order), slices.SortedFunc(maps.Keys(l), order)
}

// unknownPorts are host ends without our mark that could be an attachment of the network: their pod was not found, and
// they are on a bridge that the network uses, or on none, as pods of the network are.
func (s *sweeper) unknownPorts() (names []string) {
	bridges := map[string]bool{}
	for _, b := range s.Found.Bridges {
		if b.Owner == inventory.Ours && s.wants(b.Network) {
			bridges[b.Name] = true
		}
	}
	for _, a := range s.Found.Attachments {
		if a.Owner == inventory.Ours && s.wants(a.Network) {
			bridges[a.Bridge] = true
		}
	}
	for _, a := range s.Found.Attachments {
		if a.Owner != inventory.Ours && a.Pod == nil && bridges[a.Bridge] {
			names = append(names, a.HostEnd)
		}
	}
	return names
}

// release gives back the leases of some owners.
func (s *sweeper) release(d inventory.LeaseDir, owners []ipam.Owner) {
	if len(owners) == 0 {
		return
	}
	s.add(Step{Network: d.Network, Kind: "leases", Name: filepath.Join(d.DataDir, d.Network),
		Note: "of " + plural(len(owners), "interface"), last: true, do: func(ctx context.Context) error {
			var errs []error
			for _, o := range owners {
				errs = append(errs, ipam.Dir{DataDir: d.DataDir, Network: d.Network}.Release(ctx, o))
			}
			return errors.Join(errs...)
		}})
}

// retain gives back all leases but those of the owners that are left.
func (s *sweeper) retain(d inventory.LeaseDir, left []ipam.Owner) {
	path, note := filepath.Join(d.DataDir, d.Network), plural(d.Leases, "lease")+", their directory and our index"
	if len(left) > 0 {
		note = fmt.Sprintf("less those of %s that the reference made", plural(len(left), "interface"))
	}
	if !d.Exists {
		path, note = filepath.Join(d.DataDir, mark.Index, d.Network), "our index of leases that are gone"
	}
	s.add(Step{Network: d.Network, Kind: "leases", Name: path, Note: note, last: true, do: func(ctx context.Context) error {
		err := ipam.Dir{DataDir: d.DataDir, Network: d.Network}.Retain(ctx, slices.Values(left))
		if err != nil || len(left) > 0 {
			return err
		}
		return within(d.DataDir, func(root *os.Root) error { return removeDir(root, d.Network) })
	}})
}

// removeDir removes the directory of a network without leases and its index. The directory itself goes only if it is
// empty: an ADD that came between keeps what it made.
func removeDir(root *os.Root, network string) error {
	dir, err := fs.ReadDir(root.FS(), network)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range dir {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			return nil
		}
	}
	for _, e := range dir {
		if e.Name() == "lock" || strings.HasPrefix(e.Name(), "last_reserved_ip.") {
			if err := root.Remove(network + "/" + e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := root.Remove(network); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.RemoveAll(mark.Index + "/" + network); err != nil {
		return err
	}
	_ = root.Remove(mark.Index) // if it was the last
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
