package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dir is an open directory. Its methods take names of direct entries only and never follow a symbolic link.
type dir struct {
	fd    int // -1: not open
	path  string
	hooks *hooks
}

// errGone: a directory was deleted or damaged under our feet. The call starts again.
var errGone = errors.New("it changed while in use")

func (d dir) err(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// made is err of a call that creates an entry: there, "not there" is the directory itself.
func (d dir) made(op, name string, err error) error {
	if err == unix.ENOENT {
		return fmt.Errorf("%s: %w", d.path, errGone)
	}
	return d.err(op, name, err)
}

func (d dir) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
}

func openPath(dirfd int, path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// open opens an existing entry, or with O_CREAT or O_TMPFILE makes one.
func (d dir) open(name string, flags int) (int, error) {
	if flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) == 0 {
		fd, err := openPath(d.fd, name, flags, 0)
		return fd, d.err("open", name, err)
	}
	if err := d.hooks.step(); err != nil {
		return -1, d.err("create", name, err)
	}
	fd, err := openPath(d.fd, name, flags, 0o600)
	return fd, d.made("create", name, err)
}

// child opens a directory, and makes it if mode is not 0 and it is not there.
func (d dir) child(name string, mode uint32) (dir, error) {
	fd, err := openPath(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT && mode != 0 {
		if err := d.mkdir(name, mode); err != nil {
			return dir{fd: -1}, err
		}
		if fd, err = openPath(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == unix.ENOENT {
			return dir{fd: -1}, d.made("open", name, err)
		}
	}
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return dir{fd: -1}, fmt.Errorf("%s is not a directory (symbolic links are not followed): remove it", filepath.Join(d.path, name))
	}
	if err != nil {
		return dir{fd: -1}, d.err("open", name, err)
	}
	return dir{fd, filepath.Join(d.path, name), d.hooks}, nil
}

func (d dir) mkdir(name string, mode uint32) error {
	err := d.hooks.step()
	if err == nil {
		err = unix.Mkdirat(d.fd, name, mode)
	}
	if err == unix.EEXIST {
		return nil
	}
	return d.made("mkdir", name, err)
}

// names lists all entries.
func (d dir) names() ([]string, error) {
	if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
		return nil, d.err("seek", "", err)
	}
	var names []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(d.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return names, d.made("read directory", "", err) // ENOENT: it was deleted
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func (d dir) mtime() (unix.Timespec, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd, &st)
	return st.Mtim, d.err("stat", "", err)
}

func (d dir) setMtime(t unix.Timespec) error {
	err := d.hooks.step()
	if err == nil {
		err = unix.UtimesNanoAt(d.fd, ".", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t}, 0)
	}
	return d.made("set time", "", err)
}

func (d dir) rename(from, to string) error {
	err := d.hooks.step()
	if err == nil {
		err = unix.Renameat(d.fd, from, d.fd, to)
	}
	return d.made("rename", to, err)
}

// unlink removes an entry that is no directory. It is no error if it is not there.
func (d dir) unlink(name string) error {
	err := d.hooks.step()
	if err == nil {
		err = unix.Unlinkat(d.fd, name, 0)
	}
	if err == unix.ENOENT {
		return nil
	}
	return d.err("remove", name, err)
}

// removeAll removes whatever has the name.
func (d dir) removeAll(name string) error {
	if err := d.hooks.step(); err != nil {
		return d.err("remove", name, err)
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", d.fd))
	if err != nil {
		return d.err("remove", name, err)
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// write writes b at an offset of an open file of the directory.
func (d dir) write(fd int, name string, b []byte, off int64) error {
	if err := d.hooks.step(); err != nil {
		return d.err("write", name, err)
	}
	n, err := unix.Pwrite(fd, b, off)
	for err == unix.EINTR {
		n, err = unix.Pwrite(fd, b, off)
	}
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	return d.err("write", name, err)
}

// read fills b from an offset of an open file as far as the file goes.
func (d dir) read(fd int, name string, b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, off)
		if err != unix.EINTR {
			return max(n, 0), d.err("read", name, err)
		}
	}
}
