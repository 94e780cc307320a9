//go:build linux

package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// look is how often the interface is looked for.
const look = time.Minute

// Keep keeps a lease until ctx is done, which is no error, or the interface is gone, which is [ErrGone]: it renews it, asks
// other servers if its own does not answer, and takes the address off the interface when the lease ends all the same. It then
// asks for the same address until a server gives it, and puts it back with its routes. Changed is called with the lease
// whenever it changes.
func (c Client) Keep(ctx context.Context, l Lease, changed func(Lease)) error {
	c = c.orDefaults()
	var saved []rtnl.Route
	for ctx.Err() == nil {
		if err := c.There(ctx); errors.Is(err, ErrGone) {
			return err
		}
		renew, rebind, expire := l.deadlines()
		t := now()
		if l.Withdrawn || t >= expire {
			got, err := c.regain(ctx, l, &saved, changed)
			switch {
			case err == nil:
				l = got
			case errors.Is(err, ErrGone):
				return err
			case ctx.Err() == nil:
				c.Log.Error("lease not regained", "error", err)
				l.Withdrawn = true
				sleep(ctx, time.Second)
			}
			continue
		}
		if t < renew {
			sleep(ctx, min(renew-t, look))
			continue
		}
		next := rebind
		if t >= rebind {
			next = expire
		}
		short, cancel := context.WithTimeout(ctx, next-t)
		got, err := c.extend(short, l, t >= rebind)
		cancel()
		switch {
		case err == nil:
			l = got
			c.Log.Info("lease renewed", "address", l.ACK.YourIPAddr, "expires in", l.Expires().Round(time.Second))
			changed(l)
		case errors.Is(err, ErrGone):
			return err
		case errors.Is(err, errNAK):
			c.Log.Warn("lease lost", "error", err)
			l.At, l.Withdrawn = t, true
		case ctx.Err() == nil:
			c.Log.Warn("lease not renewed", "error", err, "expires in", l.Expires().Round(time.Second))
			sleep(ctx, max((next-now())/2, time.Second)) // RFC 2131, section 4.4.5
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// regain takes the address off and asks for it until it has it again.
func (c Client) regain(ctx context.Context, l Lease, saved *[]rtnl.Route, changed func(Lease)) (got Lease, err error) {
	routes, had, err := c.withdraw(ctx, l)
	if err != nil && errors.Is(err, ErrGone) {
		return l, err
	}
	if had {
		*saved = routes
	}
	if err != nil {
		c.Log.Error("the address of an expired lease stays on the interface", "address", l.ACK.YourIPAddr, "error", err)
	}
	if had || l.Withdrawn {
		l.Withdrawn = true
		c.Log.Error("lease expired: the address is taken off the interface until a server gives it again", "address", l.ACK.YourIPAddr)
	}
	changed(l)
	err = c.insist(ctx, func() error {
		got, err = c.discover(ctx, ipv4(l.ACK.YourIPAddr), true)
		return err
	})
	if err == nil && l.Withdrawn {
		err = c.restore(ctx, got, *saved)
	}
	if err == nil {
		c.Log.Info("the server gives the address again", "address", got.ACK.YourIPAddr)
		changed(got)
	}
	return got, err
}

// withdraw takes the address of a lease off the interface and returns the routes that go with it. Had says whether it was
// there.
func (c Client) withdraw(ctx context.Context, l Lease) (routes []rtnl.Route, had bool, err error) {
	err = c.visit(ctx, func(ns *netns.NS, dev link.Link) error {
		conn, err := rtnl.Open(ns)
		if err != nil {
			return err
		}
		defer conn.Close()
		all, err := conn.Addrs(dev.Index)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(a rtnl.Addr) bool { return a.Prefix.Addr() == ipv4(l.ACK.YourIPAddr) })
		if i < 0 {
			return nil
		}
		if routes, err = conn.Routes(rtnl.RouteFilter{Family: unix.AF_INET, Link: dev.Index}); err != nil {
			return err
		}
		routes = slices.DeleteFunc(routes, func(r rtnl.Route) bool {
			return r.Proto == unix.RTPROT_KERNEL || r.Table == unix.RT_TABLE_LOCAL || r.Multiple
		})
		had = true
		return rtnl.Except(conn.Do(rtnl.DelAddr(all[i])), fs.ErrNotExist)
	})
	return routes, had, err
}

// restore puts the address back, with the routes that went with it, or those of the lease where nobody knows them any more.
func (c Client) restore(ctx context.Context, l Lease, routes []rtnl.Route) error {
	prefix, err := l.Prefix()
	if err != nil {
		return err
	}
	return c.visit(ctx, func(ns *netns.NS, dev link.Link) error {
		conn, err := rtnl.Open(ns)
		if err != nil {
			return err
		}
		defer conn.Close()
		if routes == nil {
			for _, r := range l.Routes() {
				routes = append(routes, rtnl.Route{Dst: r.Dst, Via: r.Via, Link: dev.Index})
			}
		}
		// Those on the link first: others need them for their next hops.
		slices.SortStableFunc(routes, func(a, b rtnl.Route) int { return cmp.Compare(a.Via.BitLen(), b.Via.BitLen()) })
		msgs := []*rtnl.Msg{rtnl.NewAddr(rtnl.Addr{Link: dev.Index, Prefix: prefix})}
		for _, r := range routes {
			if !r.Via.IsValid() && r.Scope == 0 {
				r.Scope = unix.RT_SCOPE_LINK
			}
			msgs = append(msgs, rtnl.NewRoute(r))
		}
		if err := rtnl.Except(conn.Do(msgs...), fs.ErrExist); err != nil {
			return fmt.Errorf("put %s back on %s in %s: %w", prefix, c.Link, c.NetNS, err)
		}
		return nil
	})
}
