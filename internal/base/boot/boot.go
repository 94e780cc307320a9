//go:build linux

// Package boot tells one boot of the machine from another.
package boot

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ID is the kernel's identity of this boot (random(4), boot_id). It is read once, with plain system calls: a poller, which
// package os would set up for it, costs ten more.
var ID = sync.OnceValues(func() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer unix.Close(fd)
	var b [64]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimSpace(string(b[:n])), nil
})
