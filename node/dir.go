//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/base/wait"
)

// OpenDir opens the directory of a network's files, and makes it, with those above, if it is not there. What is done
// below stays below: a symbolic link that leads out of stateDir is refused, and so is a directory that belongs to another
// user than root and the caller. Whoever may write to stateDir can thus not have files of others overwritten.
func OpenDir(stateDir, network string) (*os.Root, error) {
	if network == "" || network == "." || network == ".." || filepath.Base(network) != network {
		return nil, fmt.Errorf("name of the network %q: want one path element", network)
	}
	dir := Dir(stateDir, network)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	top, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer top.Close()
	if err := top.Mkdir(network, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := top.OpenRoot(network)
	if err != nil {
		return nil, fmt.Errorf("%s is not a directory of ours, remove it: %w", dir, err)
	}
	if err := ours(root); err != nil {
		root.Close()
		return nil, fmt.Errorf("%s %w", dir, err)
	}
	return root, nil
}

func ours(dir *os.Root) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, who could change what is read there: remove it, or give it to root", st.Uid)
	}
	return nil
}

// lock keeps other writers out of the directory, which are quick. One that was stopped is given up after a while.
func lock(dir *os.Root) (unlock func(), err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	if err := wait.Lock(context.Background(), int(f.Fd()), 10*time.Second, time.Millisecond); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: dir.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}

// ReadFile reads a file whose directory somebody else might have made: it follows no symbolic link, never waits, and reads
// no more than so many bytes. What is no regular file, or longer, is [io/fs.ErrInvalid].
func ReadFile(path string, most int) ([]byte, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd) // not by package os, whose poller would cost ten more system calls
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size > int64(most) {
		return nil, sentinel.Errorf(fs.ErrInvalid, "%s is no regular file of at most %d bytes", path, most)
	}
	b := make([]byte, st.Size)
	for have := 0; have < len(b); {
		n, err := syscall.Read(fd, b[have:])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b[:have], nil
		default:
			have += n
		}
	}
	return b, nil
}

// Replace puts content into a file of a directory, in one step, by way of another file, which must be nobody else's at the
// time; one that a crash left under that name is removed.
func Replace(dir *os.Root, name, by string, content []byte, mode fs.FileMode) error {
	if err := dir.Remove(by); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := dir.OpenFile(by, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = dir.Rename(by, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(by))
	}
	return nil
}
