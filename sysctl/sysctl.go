//go:build linux

// Package sysctl reads and writes the kernel parameters of a network namespace (/proc/sys/net, see proc(5)).
package sysctl

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Var is a parameter and its value. The key is a path below /proc/sys, such as net/ipv6/conf/eth0.100/accept_ra: with
// slashes, since interface names may have dots.
type Var struct{ Key, Value string }

// Get reads a parameter in ns, without the newline. One that the kernel does not have is [io/fs.ErrNotExist].
func Get(ns *netns.NS, key string) (value string, err error) {
	err = in(ns, func() error {
		value, err = read(key)
		return err
	})
	return value, err
}

// Ensure makes parameters have their values in ns, and writes only those that differ. It goes on after an error and
// returns the first.
func Ensure(ns *netns.NS, vars ...Var) error {
	return in(ns, func() error {
		var first error
		for _, v := range vars {
			if have, err := read(v.Key); err == nil && have == v.Value {
				continue
			}
			if err := write(v.Key, v.Value); err != nil && first == nil {
				first = err
			}
		}
		return first
	})
}

func in(ns *netns.NS, f func() error) error {
	if ns.Here() {
		return f()
	}
	return ns.Visit(f)
}

func path(key string) (string, error) {
	if !strings.HasPrefix(key, "net/") || strings.Contains(key+"/", "/../") || strings.IndexByte(key, 0) >= 0 {
		return "", fmt.Errorf("sysctl %q: want a path below net/", key)
	}
	return "/proc/sys/" + key, nil
}

// The files are read and written with plain system calls: they are never worth a poller.
func read(key string) (string, error) {
	p, err := path(key)
	if err != nil {
		return "", err
	}
	fd, err := again(func() (int, error) { return unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: p, Err: err}
	}
	defer unix.Close(fd)
	var b [4096]byte // the kernel's own bound is a page
	n, err := again(func() (int, error) { return unix.Read(fd, b[:]) })
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: p, Err: err}
	}
	return string(bytes.TrimSpace(b[:n])), nil
}

func write(key, value string) error {
	p, err := path(key)
	if err != nil {
		return err
	}
	fd, err := again(func() (int, error) { return unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err == nil {
		_, err = again(func() (int, error) { return unix.Write(fd, []byte(value)) })
		unix.Close(fd)
	}
	if err != nil {
		return &fs.PathError{Op: "write " + value + " to", Path: p, Err: err}
	}
	return nil
}

// again makes a call that a signal interrupted once more.
func again(call func() (int, error)) (n int, err error) {
	for n, err = call(); err == unix.EINTR; {
		n, err = call()
	}
	return n, err
}
