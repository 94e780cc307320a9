//go:build linux

// Package netns makes a network namespace a value that is passed to whoever works in it.
//
// A [NS] holds a descriptor of the namespace and, until it is closed, the sockets that other packages opened in it
// ([NS.Keep]). No code "goes into" a namespace: a thread enters it only to create a socket and comes back. The one
// exception is [NS.Do], for /proc/sys and child processes, which runs on a thread of its own that is thrown away.
//
// Out of scope: other kinds of namespaces, and what is inside of one.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/base/wait"
)

// Dir is where pinned namespaces live, as ip-netns(8) has it.
const Dir = "/run/netns"

// ErrNotNamespace says that a path exists and is not a network namespace: a plain file, a directory, a FIFO, another
// kind of namespace, or a pinned name whose mount is gone.
var ErrNotNamespace = errors.New("not a network namespace")

// NS is an open network namespace. It keeps the namespace alive until it is closed. All methods may be called from
// several goroutines at once; none may be called after Close.
//
// Nil and the zero value are no namespace: whatever is asked of them, here and in the packages that take an NS, is an error
// that is [io/fs.ErrInvalid], see [NS.Check].
type NS struct {
	fd   int
	path string
	ino  uint64

	mu     sync.Mutex
	kept   map[any]io.Closer
	shares int // how many more owners there are
	cookie atomic.Uint64
}

// Open opens the namespace at path, such as /run/netns/blue or /proc/1234/ns/net. It never blocks and has no side
// effect on what the path names, be it a FIFO or a device. A missing path is [io/fs.ErrNotExist], anything that is not a
// network namespace [ErrNotNamespace].
func Open(path string) (*NS, error) {
	// O_PATH touches nothing but the name; only a file of nsfs, where namespaces are, is then opened for real.
	p, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open namespace", Path: path, Err: err}
	}
	defer unix.Close(p)
	var st unix.Statfs_t
	if err := unix.Fstatfs(p, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if st.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%s: %w", path, ErrNotNamespace)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(p), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open namespace", Path: path, Err: err}
	}
	return fromFd(fd, path)
}

// Current opens the namespace of the calling thread.
func Current() (*NS, error) {
	const self = "/proc/thread-self/ns/net"
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open namespace", Path: self, Err: err}
	}
	return fromFd(fd, self)
}

func fromFd(fd int, path string) (*NS, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, ErrNotNamespace)
	}
	return &NS{fd: fd, path: path, ino: st.Ino}, nil
}

// New makes a namespace without a name. It ends when the last of its descriptors, processes and mounts is gone. Needs
// CAP_SYS_ADMIN.
func New() (*NS, error) {
	var ns *NS
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w", err)
		}
		var err error
		ns, err = Current()
		return err
	})
	return ns, err
}

// Create makes a namespace and pins it under [Dir], where ip-netns(8) finds it by name. A name that is taken is
// [io/fs.ErrExist].
func Create(name string) (*NS, error) {
	path, err := pin(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return nil, err
	}
	if err := shareDir(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, err
	}
	f.Close()
	ns, err := New()
	if err == nil {
		if err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "none", unix.MS_BIND, ""); err == nil {
			ns.path = path
			return ns, nil
		}
		err = &fs.PathError{Op: "mount namespace", Path: path, Err: err}
		ns.Close()
	}
	return nil, errors.Join(err, os.Remove(path))
}

// Remove unpins the namespace of that name. One that is not there is [io/fs.ErrNotExist].
func Remove(name string) error {
	path, err := pin(name)
	if err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
		return &fs.PathError{Op: "unmount", Path: path, Err: err}
	}
	return os.Remove(path)
}

// List returns the names of the pinned namespaces, sorted. Files below [Dir] that are no namespaces are left out.
func List() ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ns, err := Open(filepath.Join(Dir, e.Name()))
		if err != nil {
			continue
		}
		ns.Close()
		names = append(names, e.Name())
	}
	return names, nil
}

func pin(name string) (string, error) {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name || len(name) > 255 {
		return "", fmt.Errorf("namespace name %q: want one path element of at most 255 bytes", name)
	}
	return filepath.Join(Dir, name), nil
}

// shareDir makes Dir a shared mount, so that a pin made in one mount namespace is seen, and removed, in all of them.
// ip-netns(8) does the same, and holds the same lock, without which two at once would mount it over itself twice.
func shareDir() error {
	lock, err := os.Open(Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	for err == unix.EINTR {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: Dir, Err: err}
	}
	err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if err == unix.EINVAL { // not a mount point yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return &fs.PathError{Op: "share mount", Path: Dir, Err: err}
	}
	return nil
}

// Check is an error, [io/fs.ErrInvalid], for nil and for the zero value. It asks the kernel nothing.
func (ns *NS) Check() error {
	if ns == nil || ns.ino == 0 {
		return errNone
	}
	return nil
}

var errNone = sentinel.Errorf(fs.ErrInvalid, "no network namespace is given: want one of netns.Open, Current, New or Create")

// Fd is the descriptor of the namespace; it stays owned by ns. It is -1 for no namespace.
func (ns *NS) Fd() int {
	if ns.Check() != nil {
		return -1
	}
	return ns.fd
}

// Path is what the namespace was opened by: for [New] and [Current] a path that only the thread that called understands.
// It is empty for no namespace.
func (ns *NS) Path() string {
	if ns == nil {
		return ""
	}
	return ns.path
}

// Same reports whether both are the same namespace. No namespace is the same as none.
func (ns *NS) Same(other *NS) bool {
	return ns.Check() == nil && other.Check() == nil && ns.ino == other.ino
}

// Cookie identifies the namespace until the next reboot, unlike its inode number, which is reused at once
// (SO_NETNS_COOKIE in socket(7), Linux 5.14).
func (ns *NS) Cookie() (uint64, error) {
	if err := ns.Check(); err != nil {
		return 0, err
	}
	if c := ns.cookie.Load(); c != 0 {
		return c, nil
	}
	fd, err := ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("getsockopt(SO_NETNS_COOKIE): %w", err)
	}
	ns.cookie.Store(c)
	return c, nil
}

// Socket creates a close-on-exec socket in the namespace. The arguments are those of socket(2).
func (ns *NS) Socket(domain, typ, proto int) (fd int, err error) {
	if err := ns.Check(); err != nil {
		return -1, err
	}
	typ |= unix.SOCK_CLOEXEC
	if ns.Here() {
		// All threads that are not locked to a goroutine are in one namespace, so moving to another one now does no harm.
		if fd, err = unix.Socket(domain, typ, proto); err != nil {
			return -1, fmt.Errorf("socket in namespace %s: %w", ns.path, err)
		}
		return fd, nil
	}
	err = ns.Visit(func() (err error) {
		fd, err = unix.Socket(domain, typ, proto)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("socket in namespace %s: %w", ns.path, err)
	}
	return fd, nil
}

// Visit calls f on a thread that is in the namespace for that time only. It is a fifth of the price of [NS.Do], for an f
// that is a few system calls and no more: it must not block, panic or leave anything else on its thread.
func (ns *NS) Visit(f func() error) (err error) {
	if err := ns.Check(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if ns.Here() { // setns(2) takes CAP_SYS_ADMIN even where it changes nothing
			err = f()
			runtime.UnlockOSThread()
			return
		}
		home, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = e
			runtime.UnlockOSThread()
			return
		}
		defer unix.Close(home)
		if err = unix.Setns(ns.Fd(), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("setns %s: %w", ns.path, err)
			runtime.UnlockOSThread()
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
	}()
	<-done
	return err
}

// Here reports whether the calling thread is in the namespace.
func (ns *NS) Here() bool {
	var st unix.Stat_t
	return ns.Check() == nil && unix.Stat("/proc/thread-self/ns/net", &st) == nil && st.Ino == ns.ino
}

// Lock waits for the lock of the namespace, which all processes of this library share, and returns what gives it back. It
// is a flock(2) on the namespace itself: no file stays behind, and the end of the process gives it back too. Not
// reentrant. It fails when ctx ends.
func (ns *NS) Lock(ctx context.Context) (unlock func(), err error) {
	if err := ns.Check(); err != nil {
		return nil, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", ns.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock namespace %s: %w", ns.path, err)
	}
	if err := wait.Lock(ctx, fd, 0, 5*time.Millisecond); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("lock namespace %s: %w", ns.path, err)
	}
	return func() {
		// By name: a child that is just being started may hold a copy of the descriptor for a moment.
		_ = unix.Flock(fd, unix.LOCK_UN)
		unix.Close(fd)
	}, nil
}

// Do calls f on a thread that is in the namespace and is thrown away afterwards. f must not start goroutines that
// depend on the namespace: they run elsewhere. A panic of f goes on in the caller, with the stack of f in its text; f that
// ends by [runtime.Goexit] is an error.
func (ns *NS) Do(f func() error) error {
	if err := ns.Check(); err != nil {
		return err
	}
	return onThread(func() error {
		if !ns.Here() { // setns(2) takes CAP_SYS_ADMIN even where it changes nothing
			if err := unix.Setns(ns.Fd(), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns %s: %w", ns.path, err)
			}
		}
		return f()
	})
}

// onThread calls f on a thread of its own. The goroutine ends while locked, which ends the thread: nothing that f did
// to it can reach other goroutines. The first thread of the process would not end but park, in whatever namespace f left
// it, so it is only held here while another one does the work.
func onThread(f func() error) (err error) {
	done := make(chan struct{})
	panicked := ""
	go func() {
		defer close(done)
		err = errors.New("the function ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
			}
		}()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			err = onThread(f)
			return
		}
		err = f()
	}()
	<-done
	if panicked != "" {
		panic(panicked)
	}
	return err
}

// Keep returns what was opened under key before, or opens it now; Close closes it. Packages use it to open one socket
// for a namespace however often they are called.
func (ns *NS) Keep(key any, open func() (io.Closer, error)) (io.Closer, error) {
	if err := ns.Check(); err != nil {
		return nil, err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if c, ok := ns.kept[key]; ok {
		return c, nil
	}
	c, err := open()
	if err != nil {
		return nil, err
	}
	if ns.kept == nil {
		ns.kept = map[any]io.Closer{}
	}
	ns.kept[key] = c
	return c, nil
}

// Share returns ns for one more owner, who closes it too: the last Close counts.
func (ns *NS) Share() *NS {
	if ns.Check() != nil {
		return ns
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.shares++
	return ns
}

// Close closes the namespace and what was kept in it, unless it is shared with an owner who has not closed it yet. The
// namespace itself stays if something else holds it. No namespace is closed already.
func (ns *NS) Close() error {
	if ns.Check() != nil {
		return nil
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.shares > 0 {
		ns.shares--
		return nil
	}
	var errs []error
	for _, c := range ns.kept {
		errs = append(errs, c.Close())
	}
	ns.kept = nil
	errs = append(errs, unix.Close(ns.fd))
	ns.fd = -1
	return errors.Join(errs...)
}
