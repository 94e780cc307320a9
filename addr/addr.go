//go:build linux

// Package addr adds, reads and checks the addresses of a link (ip-address(8)). Those that it adds bear [link.Proto].
package addr

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Check fails if some of the prefixes do not stand on the link, and names them.
func Check(_ context.Context, ns *netns.NS, name string, prefixes ...netip.Prefix) error {
	for _, p := range prefixes {
		if err := check(p); err != nil {
			return err
		}
	}
	have, err := list(ns, name)
	if err != nil {
		return err
	}
	var missing []string
	for _, p := range prefixes {
		if !slices.Contains(have, p) {
			missing = append(missing, p.String())
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("address %s is missing on %s, which has %v", missing[0], name, have)
	}
	return fmt.Errorf("addresses %s are missing on %s, which has %v", strings.Join(missing, ", "), name, have)
}

// Add is the change that adds a prefix to a link, given by its index, for [link.Apply]. An IPv6 address is usable at once,
// without duplicate address detection (RFC 4862, section 5.4). A prefix that stands there is [io/fs.ErrExist].
func Add(index int, p netip.Prefix) link.Change {
	var flags uint32
	if p.Addr().Is6() {
		flags = unix.IFA_F_NODAD
	}
	return add(index, p, flags)
}

// AddDetected is [Add] where the kernel asks first whether another station has the IPv6 address, which takes a second or
// two: see [Settle].
func AddDetected(index int, p netip.Prefix) link.Change { return add(index, p, 0) }

// AddAlone is [Add] without the route to the subnet of the prefix that the kernel would make (noprefixroute).
func AddAlone(index int, p netip.Prefix) link.Change {
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if p.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	return add(index, p, flags)
}

func add(index int, p netip.Prefix, flags uint32) link.Change {
	if err := check(p); err != nil {
		return link.Malformed(err)
	}
	return rtnl.NewAddr(rtnl.Addr{Link: index, Prefix: p, Proto: link.Proto, Flags: flags})
}

func check(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() {
		return fmt.Errorf("address %s: want an address with a prefix length, such as 192.0.2.1/24 or 2001:db8::1/64", p)
	}
	return nil
}

// List yields the addresses of a link with their prefix lengths, of both families.
func List(ctx context.Context, ns *netns.NS, name string) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return list(ns, name)
}

func list(ns *netns.NS, name string) ([]netip.Prefix, error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return nil, err
	}
	l, err := c.LinkByName(name)
	if err != nil {
		return nil, err
	}
	addrs, err := c.Addrs(l.Index)
	have := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		have[i] = a.Prefix
	}
	return have, err
}
