//go:build linux

package link

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// withTap makes a tap device, has f set it up, and then makes it stay: until then it is gone with the process.
func withTap(ns *netns.NS, name string, t rtnl.Tap, f func() error) error {
	const device = "/dev/net/tun"
	fd := -1
	if err := ns.Visit(func() (err error) { // the device is made in the namespace of who opens this
		fd, err = unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return fmt.Errorf("open %s, which the kernel's module tun makes: %w", device, err)
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
