//go:build linux

// Package addr keeps the addresses of a link as they should be.
package addr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Proto is the protocol number that marks addresses as ours, where the kernel keeps one (Linux 5.18).
const Proto = 117

// Ensure adds the prefixes to the link that do not stand there, each with its host bits as the address and its length as
// that of the connected subnet. IPv6 addresses are usable at once, without duplicate address detection (RFC 4862,
// section 5.4). Other addresses stay. A link that is not there is [io/fs.ErrNotExist]. An IPv6 address that stands there
// with another length is [io/fs.ErrExist]: the kernel has each only once.
func Ensure(ctx context.Context, ns *netns.NS, link string, prefixes ...netip.Prefix) error {
	c, l, have, err := list(ns, link, prefixes)
	if err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	for _, p := range prefixes {
		if !slices.Contains(have, p) {
			msgs = append(msgs, New(l.Index, p))
		}
	}
	if err := ctx.Err(); err != nil || len(msgs) == 0 {
		return err
	}
	err = c.Do(msgs...)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if missing := Check(ctx, ns, link, prefixes...); missing != nil { // else another program was faster
		return errors.Join(missing, err)
	}
	return rtnl.Except(err, fs.ErrExist)
}

// Remove takes prefixes off the link; what is not there is no error.
func Remove(ctx context.Context, ns *netns.NS, link string, prefixes ...netip.Prefix) error {
	c, l, have, err := list(ns, link, prefixes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	for _, p := range prefixes {
		if slices.Contains(have, p) {
			msgs = append(msgs, rtnl.DelAddr(rtnl.Addr{Link: l.Index, Prefix: p}))
		}
	}
	if err := ctx.Err(); err != nil || len(msgs) == 0 {
		return err
	}
	return rtnl.Except(c.Do(msgs...), fs.ErrNotExist)
}

// Check fails if some of the prefixes do not stand on the link, and names them.
func Check(_ context.Context, ns *netns.NS, link string, prefixes ...netip.Prefix) error {
	_, _, have, err := list(ns, link, prefixes)
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
		return fmt.Errorf("address %s is missing on %s, which has %v", missing[0], link, have)
	}
	return fmt.Errorf("addresses %s are missing on %s, which has %v", strings.Join(missing, ", "), link, have)
}

// New is the message that adds a prefix to a link, for callers that batch.
func New(link int, p netip.Prefix) *rtnl.Msg {
	a := rtnl.Addr{Link: link, Prefix: p, Proto: Proto}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return rtnl.NewAddr(a)
}

// list returns what the link has, for callers that are to compare it with the prefixes.
func list(ns *netns.NS, link string, prefixes []netip.Prefix) (*rtnl.Conn, rtnl.Link, []netip.Prefix, error) {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, rtnl.Link{}, nil, fmt.Errorf("address %s of %s: want an address with a prefix length, such as 192.0.2.1/24 or 2001:db8::1/64", p, link)
		}
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return nil, rtnl.Link{}, nil, err
	}
	l, err := c.LinkByName(link)
	if err != nil {
		return nil, l, nil, err
	}
	addrs, err := c.Addrs(l.Index)
	if err != nil {
		return nil, l, nil, err
	}
	have := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		have[i] = a.Prefix
	}
	return c, l, have, nil
}
