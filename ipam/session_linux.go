package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	machine "github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/wait"
)

const (
	lockName  = "lock"
	tmpPrefix = "tmp."
)

// session is a [Dir] that is open and locked. It is large since all that reads or writes the directory needs the lock, and is
// a method of who has it.
type session struct {
	d        Dir
	boot     string
	bootHash uint64
	net      dir // the lease files
	idx      dir // the table and the blocks of this boot; not open while there are none
	lock     int
	table    int  // -1: not open
	homes    int  // of the table
	healed   bool // in this session
	spoilt   bool // nobody believes the index until the next stamp
	changed  bool // since the last stamp
	coarse   bool // the file system does not keep nanoseconds: no stamp
	blocks   map[netip.Addr]*block
	cursors  map[int]cursor
}

// errNoDir: there is no directory of leases, so there are no leases.
var errNoDir = errors.New("no such network directory")

// do runs f with the directory locked, and the index in step with it. Without create it is errNoDir if there is no directory.
func (d Dir) do(ctx context.Context, create bool, f func(*session) error) error {
	if err := d.check(); err != nil {
		return err
	}
	boot, err := d.bootID()
	if err != nil {
		return err
	}
	for range 5 { // somebody may delete what we work in
		if err = d.once(ctx, boot, create, f); !errors.Is(err, errGone) {
			break
		}
	}
	return err
}

func (d Dir) once(ctx context.Context, boot string, create bool, f func(*session) error) error {
	s, err := d.begin(ctx, boot, create)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.openIndex(); err != nil {
		return err
	}
	if !s.inStep() {
		if _, err := s.heal(ctx); err != nil {
			return err
		}
	}
	if err := f(s); err != nil {
		return err // without a stamp the next call reads everything again
	}
	if s.changed {
		s.stamp()
	}
	return nil
}

func (d Dir) bootID() (string, error) {
	if d.BootID != "" {
		return d.BootID, checkBootID(d.BootID)
	}
	id, err := machine.ID()
	if err != nil {
		return "", err
	}
	return id, checkBootID(id)
}

// begin opens and locks the directory.
func (d Dir) begin(ctx context.Context, boot string, create bool) (*session, error) {
	s, err := d.openNet()
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return nil, errNoDir
		}
		if err := d.makeDirs(); err != nil {
			return nil, err
		}
		if s, err = d.openNet(); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", errGone, err)
		}
	}
	if err != nil {
		return nil, err
	}
	s.boot, s.bootHash = boot, hashBoot(boot)
	s.idx = dir{-1, filepath.Join(d.dataDir(), mark.Index, d.Network, boot), d.hooks}
	if err := s.acquire(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// makeDirs makes the directory of the lease files, and before it the place of its index: a directory without one is taken
// for the reference's.
func (d Dir) makeDirs() error {
	if err := os.MkdirAll(d.dataDir(), 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(d.dataDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: d.dataDir(), Err: err}
	}
	data := dir{fd, d.dataDir(), d.hooks}
	defer data.close()
	top, err := data.child(mark.Index, 0o700)
	if err != nil {
		return err
	}
	defer top.close()
	if err := top.mkdir(d.Network, 0o700); err != nil {
		return err
	}
	return data.mkdir(d.Network, 0o755)
}

// openNet opens the directory of the lease files, and does not lock it.
func (d Dir) openNet() (*session, error) {
	path := filepath.Join(d.dataDir(), d.Network)
	fd, err := openPath(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return nil, fmt.Errorf("lease directory %s is not a directory (symbolic links are not followed): remove it, or set another dataDir", path)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &session{
		d: d, net: dir{fd, path, d.hooks}, idx: dir{fd: -1}, lock: -1, table: -1,
		blocks: map[netip.Addr]*block{}, cursors: map[int]cursor{},
	}, nil
}

// acquire takes the lock, as the reference does, by flock(2).
func (s *session) acquire(ctx context.Context) (err error) {
	if s.lock, err = s.net.open(lockName, unix.O_RDONLY|unix.O_CREAT); err != nil {
		s.lock = -1
		return err
	}
	if err := wait.Lock(ctx, s.lock, 0, 2*time.Millisecond); err != nil {
		return s.net.err("lock", lockName, err)
	}
	// A lock that was deleted keeps nobody out.
	var st unix.Stat_t
	if err := unix.Fstat(s.lock, &st); err != nil {
		return s.net.err("stat", lockName, err)
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%s: %w", s.net.path, errGone)
	}
	return nil
}

// openIndex opens the index of this boot, if there is one.
func (s *session) openIndex() error {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(s.net.fd, filepath.Join("..", mark.Index, s.d.Network, s.boot), &how)
	switch err {
	case nil:
		s.idx.fd = fd
	case unix.ENOENT:
	case unix.ELOOP, unix.ENOTDIR, unix.ENOSYS, unix.EPERM, unix.EAGAIN: // not as we made it; old kernel; seccomp
		return s.makeIndex()
	default:
		return s.idx.err("open", "", err)
	}
	return nil
}

// makeIndex opens the index, and makes it if need be: of the index of an earlier boot, so that its table is kept.
func (s *session) makeIndex() error {
	parent, err := s.net.child("..", 0)
	if err != nil {
		return err
	}
	defer parent.close()
	top, err := parent.child(mark.Index, 0o700)
	if err != nil {
		return err
	}
	defer top.close()
	network, err := top.child(s.d.Network, 0o700)
	if err != nil {
		return err
	}
	defer network.close()
	if err := s.inherit(network); err != nil {
		return err
	}
	s.idx.close()
	idx, err := network.child(s.boot, 0o700)
	if err != nil {
		return err
	}
	s.idx.fd = idx.fd
	return nil
}

// inherit renames the index of an earlier boot to this boot's, if there is none, and deletes all others.
func (s *session) inherit(network dir) error {
	names, err := network.names()
	if err != nil {
		return err
	}
	have := false
	for _, n := range names {
		d, err := network.child(n, 0)
		d.close()
		have = have || n == s.boot && err == nil
	}
	for _, n := range names {
		switch {
		case n == s.boot && have:
			continue
		case n != s.boot && !have && checkBootID(n) == nil:
			if err := s.takeOver(network, n); err == nil {
				have = true
				continue
			}
		}
		if err := network.removeAll(n); err != nil {
			return err
		}
	}
	return nil
}

// takeOver makes the index of an earlier boot this boot's, which must not look in step under its new name.
func (s *session) takeOver(network dir, boot string) error {
	old, err := network.child(boot, 0)
	if err != nil {
		return err
	}
	defer old.close()
	if err := old.setMtime(unix.Timespec{}); err != nil {
		return err
	}
	return network.rename(boot, s.boot)
}

// stampShift is by how many seconds the time of the index is earlier than that of the directory while they are in step.
// Equal times would not do: the kernel's clock ticks slowly enough to give them by chance.
const stampShift = 1 << 29

// inStep says whether the index describes the directory: nobody else changed it since we stamped both.
func (s *session) inStep() bool {
	if s.idx.fd < 0 {
		return false
	}
	a, err1 := s.net.mtime()
	b, err2 := s.idx.mtime()
	return err1 == nil && err2 == nil && a.Sec-stampShift == b.Sec && a.Nsec == b.Nsec && a.Nsec != 0
}

// spoil makes sure that nobody believes the index until the next stamp. A change of the lease directory does that too.
func (s *session) spoil() error {
	s.spoilt = true
	return s.idx.setMtime(unix.Timespec{})
}

// stamp declares the index to be in step with the directory. The nanoseconds are random, so that no later change, in
// whatever tick of the kernel's clock, has the same time. Where it fails the next call reads the directory, that is all.
func (s *session) stamp() {
	if s.coarse {
		return
	}
	t := unix.NsecToTimespec(time.Now().Unix()*1e9 + 1 + rand.Int64N(1e9-1))
	if s.net.setMtime(t) != nil {
		return
	}
	t.Sec -= stampShift
	if s.idx.setMtime(t) == nil {
		s.spoilt, s.changed = false, false
	}
}

// keepsTimes finds out whether a stamp would be worth anything: whether we may set times, and the file systems keep
// nanoseconds.
func (s *session) keepsTimes() bool {
	t := unix.NsecToTimespec(time.Now().Unix()*1e9 + 123456789)
	for _, d := range []dir{s.net, s.idx} {
		if d.setMtime(t) != nil {
			return false
		}
		if got, err := d.mtime(); err != nil || got != t {
			return false
		}
	}
	return !s.d.hooks.coarseTime()
}

func (s *session) close() {
	s.closeBlocks()
	s.closeTable()
	for _, c := range s.cursors {
		if c.fd >= 0 {
			unix.Close(c.fd)
		}
	}
	if s.lock >= 0 {
		_ = unix.Flock(s.lock, unix.LOCK_UN) // a forked child may share the descriptor
		unix.Close(s.lock)
	}
	s.idx.close()
	s.net.close()
}
