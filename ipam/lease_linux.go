package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

func identify(st *unix.Stat_t) identity { return identity{st.Ino, st.Mtim.Nano()} }

// file is what lies under the name of an address.
type file struct {
	owner Owner
	id    identity
	kind  kind
}

type kind int

const (
	lease   kind = iota // names its owner
	torn                // a crash left it: holds nothing
	foreign             // not a regular file: nobody's lease, and not ours to remove
)

// readLease reads the lease file of an address. There may be none: [fs.ErrNotExist].
func (s *session) readLease(a netip.Addr) (file, error) {
	s.d.hooks.read()
	fd, err := s.net.open(a.String(), unix.O_RDONLY)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // symbolic link, socket
		return file{kind: foreign}, nil
	}
	if err != nil {
		return file{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file{}, s.net.err("stat", a.String(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return file{kind: foreign}, nil
	}
	var buf [maxContent + 1]byte
	n, err := s.net.read(fd, a.String(), buf[:], 0)
	if err != nil {
		return file{}, err
	}
	f := file{id: identify(&st)}
	var ok bool
	if f.owner, ok = parseOwner(buf[:n]); !ok {
		f.kind = torn
	}
	return f, nil
}

// of reports whether it is a lease of this owner. One that only names the container is, where the index says so: somebody
// wrote it over in place.
func (f file) of(o Owner) bool { return f.kind == lease && (f.owner == o || f.owner == o.container()) }

// holder describes who has the address that f is the lease file of.
func (f file) holder(a netip.Addr) error {
	switch f.kind {
	case foreign:
		return fmt.Errorf("%s: %w: a file that is no lease has its name, remove it", a, ErrTaken)
	case torn:
		return fmt.Errorf("%s: %w: its lease file is unreadable", a, ErrTaken)
	}
	return fmt.Errorf("%s: %w by %s", a, ErrTaken, f.owner)
}

// draft is a lease file that has no address yet. It is a file without a name where the file system can do that.
type draft struct {
	fd   int
	name string // in the index, if not ""
	id   identity
}

func (s *session) draft(o Owner) (d draft, err error) {
	d.fd, err = s.net.open(".", unix.O_TMPFILE|unix.O_RDWR)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) || s.d.hooks.noTmpfile() {
		if err == nil {
			unix.Close(d.fd)
		}
		d.name = fmt.Sprintf("%s%x", tmpPrefix, rand.Uint64())
		d.fd, err = s.idx.open(d.name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR)
	}
	if err != nil {
		return draft{fd: -1}, err
	}
	var st unix.Stat_t
	if err = s.net.write(d.fd, d.name, []byte(o.content()), 0); err == nil {
		err = s.net.err("stat", d.name, unix.Fstat(d.fd, &st))
	}
	if err != nil {
		s.discard(d)
		return draft{fd: -1}, err
	}
	d.id = identify(&st)
	return d, nil
}

// publish gives the draft its address. If the address has a file already it is [fs.ErrExist].
func (s *session) publish(d draft, a netip.Addr) error {
	if err := s.net.hooks.step(); err != nil {
		return s.net.err("link", a.String(), err)
	}
	if d.name != "" {
		err := unix.Linkat(s.idx.fd, d.name, s.net.fd, a.String(), 0)
		return s.net.made("link", a.String(), err)
	}
	err := unix.Linkat(d.fd, "", s.net.fd, a.String(), unix.AT_EMPTY_PATH)
	if err == unix.ENOENT || err == unix.EPERM { // not privileged enough to link a descriptor
		err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(d.fd), s.net.fd, a.String(), unix.AT_SYMLINK_FOLLOW)
	}
	return s.net.made("link", a.String(), err)
}

// discard forgets drafts, published or not.
func (s *session) discard(drafts ...draft) {
	for _, d := range drafts {
		if d.fd >= 0 {
			unix.Close(d.fd)
		}
	}
	for _, d := range drafts {
		if d.fd >= 0 && d.name != "" {
			_ = s.idx.unlink(d.name) // what stays is swept by the next reading of the directory
		}
	}
}

// cursor is the file last_reserved_ip.N, open.
type cursor struct {
	fd   int // -1: there is none
	addr netip.Addr
	size int
}

// lastReserved reads the address that the pool gave last; the zero Addr if it is not known.
func (s *session) lastReserved(pool int) netip.Addr {
	if c, ok := s.cursors[pool]; ok {
		return c.addr
	}
	c := cursor{fd: -1}
	if fd, err := s.net.open(lastName(pool), unix.O_RDWR); err == nil {
		var buf [64]byte
		c.fd = fd
		c.size, _ = s.net.read(fd, lastName(pool), buf[:], 0)
		a, _ := netip.ParseAddr(string(buf[:c.size]))
		c.addr = a.Unmap().WithZone("")
	}
	s.cursors[pool] = c
	return c.addr
}

// setLastReserved is for the order of future leases only, so what cannot be written is left.
func (s *session) setLastReserved(pool int, a netip.Addr) {
	s.lastReserved(pool)
	c, text := s.cursors[pool], a.String()
	if c.fd < 0 {
		fd, err := s.net.open(lastName(pool), unix.O_WRONLY|unix.O_CREAT)
		if err != nil {
			return
		}
		c.fd = fd
	}
	if s.net.write(c.fd, lastName(pool), []byte(text), 0) == nil && len(text) < c.size {
		for unix.Ftruncate(c.fd, int64(len(text))) == unix.EINTR {
		}
	}
	s.cursors[pool] = cursor{c.fd, a, len(text)}
}

func lastName(pool int) string { return fmt.Sprintf("last_reserved_ip.%d", pool) }
