//go:build linux

package addr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/wait"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Live waits until the kernel answers for those of the prefixes' addresses that are IPv6. It begins to in a worker of its
// own, some time after the address was added, and drops packets to it until then; the sign is a route of type local.
func Live(ctx context.Context, ns *netns.NS, prefixes ...netip.Prefix) error {
	waiting := map[netip.Addr]bool{}
	for _, p := range prefixes {
		if p.Addr().Is6() {
			waiting[p.Addr()] = true
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	const patience, longest = 10 * time.Second, 50 * time.Millisecond
	err = wait.Until(ctx, patience, longest, func() (bool, error) {
		var msgs []*rtnl.Msg
		for a := range waiting {
			msgs = append(msgs, rtnl.MatchRoute(a, func(r rtnl.Route) {
				if r.Type == unix.RTN_LOCAL {
					delete(waiting, a)
				}
			}))
		}
		err := rtnl.Except(c.Do(msgs...), fs.ErrNotExist, unix.ENETUNREACH, unix.EHOSTUNREACH)
		return len(waiting) == 0, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the kernel does not answer for %v in %s: %w", slices.Collect(maps.Keys(waiting)), ns.Path(), err)
	}
	return err
}

// ErrDuplicate says that another station has an address (RFC 4862, section 5.4).
var ErrDuplicate = errors.New("duplicate address detection: another station has it")

// Settle waits until no address of the link is tentative any more, for at most ten seconds. One that another station has
// is [ErrDuplicate].
func Settle(ctx context.Context, ns *netns.NS, index int) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	const patience, longest = 10 * time.Second, 50 * time.Millisecond
	err = wait.Until(ctx, patience, longest, func() (bool, error) {
		addrs, err := c.Addrs(index)
		if err != nil {
			return false, err
		}
		settled := true
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return false, fmt.Errorf("%s: %w", a.Prefix.Addr(), ErrDuplicate)
			}
			settled = settled && a.Flags&unix.IFA_F_TENTATIVE == 0
		}
		return settled, nil
	})
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("wait for duplicate address detection: %w", err)
	}
	return err
}
