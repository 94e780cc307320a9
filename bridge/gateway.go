//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// ErrConflict says that a device has an address that stands in the way of the wanted one.
var ErrConflict = errors.New("address conflict")

// Gateways gives a device, the bridge or a VLAN device of it, the addresses by which pods reach the node. IPv6 addresses
// are usable at once. An address that stands there, is not wanted and is not one that this library put there for an earlier
// configuration, conflicts if it is IPv4, or IPv6 and overlapping: with force it is removed, else it is an error that names
// it and is [ErrConflict]. An overlapping address with another host part always conflicts. It returns whether it added any.
func Gateways(ctx context.Context, ns *netns.NS, index int, name string, force bool, want ...netip.Prefix) (added bool, err error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return false, err
	}
	have, err := c.Addrs(index)
	if err != nil {
		return false, err
	}
	var msgs []*rtnl.Msg
	present := map[netip.Prefix]bool{}
	for _, h := range have {
		present[h.Prefix] = true
		w, ok := conflict(h, want)
		switch {
		case !ok:
		case force:
			msgs = append(msgs, rtnl.DelAddr(h))
		default:
			return false, fmt.Errorf("%s has the address %s, which is in the way of %s: remove it, or set \"forceAddress\": true (%w)", name, h.Prefix, w, ErrConflict)
		}
	}
	for _, w := range want {
		if !present[w] {
			msgs = append(msgs, addr.New(index, w))
		}
	}
	if err := ctx.Err(); err != nil || len(msgs) == 0 {
		return false, err
	}
	return true, rtnl.Except(c.Do(msgs...), fs.ErrExist, fs.ErrNotExist)
}

// PinMAC makes the present MAC of a bridge its own; else it would take that of its lowest port, and change as ports come
// and go.
func PinMAC(_ context.Context, ns *netns.NS, b State) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	return c.Do(rtnl.SetLink(rtnl.Set{Index: b.Index, MAC: b.MAC}))
}

// conflict returns the wanted address that h is in the way of.
func conflict(h rtnl.Addr, want []netip.Prefix) (netip.Prefix, bool) {
	if slices.Contains(want, h.Prefix) || h.Prefix.Addr().IsLinkLocalUnicast() && h.Prefix.Addr().Is6() {
		return netip.Prefix{}, false
	}
	for _, w := range want {
		same := w.Addr().Is4() == h.Prefix.Addr().Is4()
		if same && (w.Overlaps(h.Prefix) || w.Addr().Is4() && h.Proto != addr.Proto) {
			return w, true
		}
	}
	return netip.Prefix{}, false
}

// CheckGateways fails if a wanted address is missing on the device, or is tentative.
func CheckGateways(_ context.Context, ns *netns.NS, index int, name string, want ...netip.Prefix) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	have, err := c.Addrs(index)
	if err != nil {
		return err
	}
	for _, w := range want {
		i := slices.IndexFunc(have, func(a rtnl.Addr) bool { return a.Prefix == w })
		if i < 0 {
			return fmt.Errorf("%s does not have the gateway address %s", name, w)
		}
		if have[i].Flags&unix.IFA_F_DADFAILED != 0 {
			return fmt.Errorf("%s: duplicate address detection failed for the gateway address %s", name, w)
		}
	}
	return nil
}
