//go:build linux

package shape

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Revoke takes the limits of a device away, and the helper of its owner, also where the device is gone or its name is empty:
// not known. Where there is nothing it does nothing.
func Revoke(ctx context.Context, ns *netns.NS, d Device) error {
	c, s, err := d.open(ctx, ns)
	if err != nil {
		return d.fail(err)
	}
	msgs := s.straighten()
	if s.dev.Index != 0 && ours(s.out) {
		msgs = append(msgs, rtnl.DelQdisc(s.dev.Index, rtnl.Root, s.out.Handle))
	}
	return d.fail(rtnl.Except(c.Do(msgs...), fs.ErrNotExist, unix.EINVAL))
}

// Retain removes the helpers whose owner begins with the prefix and is not among the live ones, and what leads to them.
func Retain(ctx context.Context, ns *netns.NS, prefix string, live []string) error {
	return failed(retain(ctx, ns, prefix, live))
}

func failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("rate limits: %w", err)
}

func retain(ctx context.Context, ns *netns.NS, prefix string, live []string) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	helpers, err := c.Links(kind)
	if err != nil {
		return err
	}
	var gone []int
	var msgs []*rtnl.Msg
	for _, l := range helpers {
		if l.Alias != "" && strings.HasPrefix(l.Alias, prefix) && !slices.Contains(live, l.Alias) {
			gone, msgs = append(gone, l.Index), append(msgs, rtnl.DelLinkIndex(l.Index))
		}
	}
	if len(gone) == 0 {
		return ctx.Err()
	}
	disciplines, err := c.Qdiscs()
	if err != nil {
		return err
	}
	for _, q := range disciplines {
		if q.Parent != rtnl.Ingress {
			continue
		}
		redirects, _, err := c.Filters(q.Link)
		if err != nil {
			return err
		}
		for _, r := range redirects {
			if slices.Contains(gone, r.To) {
				msgs = append([]*rtnl.Msg{rtnl.DelRedirect(r)}, msgs...)
			}
		}
	}
	return rtnl.Except(c.Do(msgs...), fs.ErrNotExist)
}

// Supported fails if this kernel lacks something that Ensure needs. It tries that out in a namespace of its own.
func Supported(ctx context.Context) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	const some = 1e6
	_, err = Ensure(ctx, ns, Device{Name: "lo", Owner: "supported"}, Limits{Out: Limit{Rate: some}, In: Limit{Rate: some}})
	return err
}

// Limited is a device with limits, or a helper that no device leads to.
type Limited struct {
	Device string // empty: there is none
	Helper string // empty: nothing limits what the device receives
	Owner  string // alias of the helper
	Limits
}

// List finds all devices that have limits in the way of this package, whoever set them, and all helpers that bear an alias.
func List(ctx context.Context, ns *netns.NS) ([]Limited, error) {
	all, err := list(ctx, ns)
	return all, failed(err)
}

func list(ctx context.Context, ns *netns.NS) ([]Limited, error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return nil, err
	}
	links, err := c.Links("")
	if err != nil {
		return nil, err
	}
	disciplines, err := c.Qdiscs()
	if err != nil {
		return nil, err
	}
	root, receives := map[int]rtnl.Qdisc{}, map[int]bool{}
	for _, q := range disciplines {
		switch q.Parent {
		case rtnl.Root:
			root[q.Link] = q
		case rtnl.Ingress:
			receives[q.Link] = true
		}
	}
	helpers := map[int]rtnl.Link{}
	for _, l := range links {
		if l.Kind == kind {
			helpers[l.Index] = l
		}
	}
	var all []Limited
	used := map[int]bool{}
	for _, l := range links {
		if l.Kind == kind {
			continue
		}
		found := Limited{Device: l.Name, Limits: Limits{Out: limit(root[l.Index])}}
		if receives[l.Index] {
			redirects, _, err := c.Filters(l.Index)
			if err != nil {
				return nil, err
			}
			for _, r := range redirects {
				if h, ok := helpers[r.To]; ok {
					used[h.Index] = true
					found.Helper, found.Owner, found.In = h.Name, h.Alias, limit(root[h.Index])
				}
			}
		}
		if found.Limits != (Limits{}) || found.Helper != "" {
			all = append(all, found)
		}
	}
	for _, h := range links {
		if h.Kind == kind && h.Alias != "" && !used[h.Index] {
			all = append(all, Limited{Helper: h.Name, Owner: h.Alias, Limits: Limits{In: limit(root[h.Index])}})
		}
	}
	return all, ctx.Err()
}
