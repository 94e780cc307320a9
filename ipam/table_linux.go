package ipam

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

const (
	tableName = "leases"
	// crowded is how many slots of others in the way make a table too small.
	crowded = 32
)

// openTable opens the table of the index.
func (s *session) openTable() error {
	if s.table >= 0 {
		return nil
	}
	fd, err := s.idx.open(tableName, unix.O_RDWR)
	var b [slotSize]byte
	if err == nil {
		_, err = s.idx.read(fd, tableName, b[:], 0)
	}
	n, ok := parseHeader(b[:])
	if err == nil && ok {
		s.table, s.homes = fd, n
		return nil
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	return s.damaged()
}

// damaged: the index is not what the stamp promises. The call starts again with a reading of the directory.
func (s *session) damaged() error {
	return errors.Join(fmt.Errorf("index %s is damaged: %w", s.idx.path, errGone), s.spoil())
}

// run reads the run of a key.
func (s *session) run(k key) (run, error) {
	if err := s.openTable(); err != nil {
		return run{}, err
	}
	r := run{start: k.home(s.homes), n: s.homes}
	for chunk := 8; ; chunk = min(2*chunk, 1024) {
		b := make([]byte, chunk*slotSize)
		n, err := s.idx.read(s.table, tableName, b, offset(r.start+r.len()))
		if err != nil {
			return run{}, err
		}
		for i := 0; i+slotSize <= n; i += slotSize {
			if b[i] == 0 {
				return r, nil
			}
			r.bytes = append(r.bytes, b[i:i+slotSize]...)
		}
		if n == len(b) {
			continue
		}
		if r.start+r.len() < s.homes {
			return run{}, s.damaged()
		}
		return r, nil
	}
}

// remembered lists what the index knows of an owner.
func (s *session) remembered(o Owner) ([]slot, error) {
	k := keyOf(o)
	r, err := s.run(k)
	return r.of(k), err
}

// remember adds slots.
func (s *session) remember(slots []slot) error {
	s.changed = true
	for _, sl := range slots {
		r, err := s.run(sl.owner)
		if err != nil {
			return err
		}
		if r.len()-len(r.of(sl.owner)) > crowded {
			s.coarse = true // no stamp: the next call reads the directory, and makes a larger table
		}
		b := make([]byte, slotSize)
		sl.put(b)
		if err := s.idx.write(s.table, tableName, b, offset(r.start+r.len())); err != nil {
			return err
		}
	}
	return nil
}

// forget removes slots of an owner. Others move up meanwhile, so nobody may look at the table if we die.
func (s *session) forget(o Owner, gone func(slot) bool) error {
	k := keyOf(o)
	r, err := s.run(k)
	if err != nil || r.len() == 0 {
		return err
	}
	if !s.spoilt {
		if err := s.spoil(); err != nil {
			return err
		}
	}
	s.changed = true
	r = r.without(func(sl slot) bool { return sl.owner == k && gone(sl) })
	return s.idx.write(s.table, tableName, r.bytes, offset(r.start))
}

// replaceTable makes the table anew, in one step.
func (s *session) replaceTable(slots []slot) error {
	s.closeTable()
	t, tmp := newTable(slots), tmpPrefix+tableName
	fd, err := s.idx.open(tmp, unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR)
	if err != nil {
		return err
	}
	err = s.idx.write(fd, tmp, t, 0)
	if err == nil {
		err = s.idx.rename(tmp, tableName)
	}
	if err != nil {
		unix.Close(fd)
		_ = s.idx.unlink(tmp)
		return err
	}
	n, _ := parseHeader(t)
	s.table, s.homes = fd, n
	return nil
}

// oldTable reads the whole table, of whatever boot; nil if there is none.
func (s *session) oldTable() (table, error) {
	fd, err := s.idx.open(tableName, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, s.idx.err("stat", tableName, err)
	}
	t := make(table, st.Size)
	n, err := s.idx.read(fd, tableName, t, 0)
	return t[:n], err
}

func (s *session) closeTable() {
	if s.table >= 0 {
		unix.Close(s.table)
		s.table = -1
	}
}
