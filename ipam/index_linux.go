package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"golang.org/x/sys/unix"
)

// view is what the whole directory holds.
type view struct {
	leases        []found
	torn, foreign []netip.Addr
}

// found is a lease file.
type found struct {
	addr  netip.Addr
	owner Owner
	id    identity
	boot  uint64 // in which it was made, as far as we know
}

// heal reads every lease file, makes the index describe them, and declares it to be in step.
func (s *session) heal(ctx context.Context) (*view, error) {
	if s.idx.fd < 0 {
		if err := s.makeIndex(); err != nil {
			return nil, err
		}
	}
	s.coarse = !s.keepsTimes()
	if err := s.spoil(); err != nil && !s.coarse {
		return nil, err
	}
	v, err := s.scan(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.settle(v); err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, err
	}
	if err := s.rebuildBlocks(v); err != nil {
		return nil, err
	}
	s.healed = true
	s.stamp()
	return v, nil
}

// sweep removes everything but the table from the index.
func (s *session) sweep() error {
	s.closeBlocks()
	names, err := s.idx.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == tableName {
			continue
		}
		err := s.idx.unlink(n)
		if errors.Is(err, unix.EISDIR) {
			err = s.idx.removeAll(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// scan reads every lease file.
func (s *session) scan(ctx context.Context) (*view, error) {
	names, err := s.net.names()
	if err != nil {
		return nil, err
	}
	v := &view{}
	for i, n := range names {
		if i%256 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("read the leases in %s: %w", s.net.path, context.Cause(ctx))
		}
		a, ok := parseName(n)
		if !ok {
			continue
		}
		f, err := s.readLease(a)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch f.kind {
		case torn:
			v.torn = append(v.torn, a)
		case foreign:
			v.foreign = append(v.foreign, a)
		case lease:
			v.leases = append(v.leases, found{a, f.owner, f.id, s.bootHash})
		}
	}
	return v, nil
}

// settle decides of which boot each lease is: of the one that the old table says, if it is about this very lease file,
// else of this one. It makes the table anew.
func (s *session) settle(v *view) error {
	old, err := s.oldTable()
	if err != nil { // not as we made it: without it every lease counts as of this boot
		if err := s.idx.removeAll(tableName); err != nil {
			return err
		}
	}
	boots := map[slot]uint64{}
	for _, sl := range old.all() {
		boot := sl.boot
		sl.boot = 0
		if boots[sl] != s.bootHash {
			boots[sl] = boot
		}
	}
	slots := make([]slot, len(v.leases))
	for i := range v.leases {
		l := &v.leases[i]
		slots[i] = slot{owner: keyOf(l.owner), addr: l.addr, id: l.id}
		if boot, ok := boots[slots[i]]; ok {
			l.boot = boot
		}
		slots[i].boot = l.boot
	}
	return s.replaceTable(slots)
}

// rebuildBlocks writes the bitmaps. There are none on disk now.
func (s *session) rebuildBlocks(v *view) error {
	put := func(a netip.Addr, isStale bool) {
		base, off := split(a)
		if s.blocks[base] == nil {
			s.blocks[base] = &block{fd: -1}
		}
		s.blocks[base].put(used, off, true)
		s.blocks[base].put(stale, off, isStale)
	}
	for _, l := range v.leases {
		put(l.addr, l.boot != s.bootHash)
	}
	for _, a := range v.torn {
		put(a, true)
	}
	for _, a := range v.foreign {
		put(a, false)
	}
	for base, b := range s.blocks {
		if err := s.store(base, b, 0, len(b.bits)); err != nil {
			return err
		}
	}
	return nil
}
