//go:build linux

package link

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

const tunDevice = "/dev/net/tun"

// openTun opens the device by which taps are made in a namespace. The caller closes it.
func openTun(ns *netns.NS) (fd int, err error) {
	err = ns.Visit(func() (err error) { // they are made in the namespace of who opens it
		fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open %s, which the kernel's module tun makes: %w", tunDevice, err)
	}
	return fd, nil
}

// withTap makes a tap device, has f set it up, and then makes it stay: until then it is gone with the process.
func withTap(ns *netns.NS, name string, t rtnl.Tap, f func() error) error {
	fd, err := openTun(ns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if t.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("add tap %s: %w", name, err)
	}
	for _, may := range []struct {
		request uint
		what    string
		id      uint32
	}{{unix.TUNSETOWNER, "owner", t.Owner}, {unix.TUNSETGROUP, "group", t.Group}} {
		if may.id != rtnl.Nobody {
			if err := unix.IoctlSetInt(fd, may.request, int(may.id)); err != nil {
				return fmt.Errorf("set the %s of tap %s to %d: %w", may.what, name, may.id, err)
			}
		}
	}
	return errors.Join(f(), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
}
