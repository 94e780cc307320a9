//go:build linux

package link

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Spec is a link to be made. Zero fields are the kernel's choice.
type Spec struct {
	Name   string // needed
	Kind   Kind   // needed
	Lower  Lower  // what it stands on; [IPVLAN], [Macvlan] and [VLAN] need one
	MAC    inet.MAC
	MTU    int    // bytes, 68 to 65535
	Alias  string // whose it is, see [Alias] and [NetworkAlias]
	Group  uint32 // see [Group]
	Master int    // index of the bridge or VRF that it becomes a port of
	Up     bool
}

// Lower is the device that a link stands on, which may be in another namespace than the link.
type Lower struct {
	NS    *netns.NS
	Index int // 0: on none
}

// Create makes a link in ns, never in another namespace from which it would have to be moved, and returns it as it is. A name
// that is taken is [io/fs.ErrExist], as is a VLAN that the lower device has already; a lower device that is not there is
// [io/fs.ErrNotExist]. No more than one caller at a time may make a link of one name: the alias of the one that is made may
// be the other's.
//
// A link on a device of another namespace is made by one system call and gets its alias by a second one, the others get it in
// the same: see [Remove] for what a caller leaves that is killed in between.
func Create(ctx context.Context, ns *netns.NS, s Spec) (Link, error) {
	kind, err := s.check()
	if err != nil {
		return Link{}, err
	}
	c, err := open(ctx, ns)
	if err != nil {
		return Link{}, err
	}
	if l, err := c.LinkByName(s.Name); err == nil {
		return Link{}, sentinel.Errorf(fs.ErrExist, "%s: %s has an interface of this name already, for %q", s.Name, ns.Path(), l.Alias)
	}
	var made rtnl.Link
	got := func(l rtnl.Link) { made = l }
	set := rtnl.Set{Name: s.Name, Alias: s.Alias, Up: s.Up}
	add := rtnl.New{Name: s.Name, Kind: kind, MAC: s.MAC, MTU: s.MTU, Group: s.Group, Lower: s.Lower.Index, Master: s.Master}
	switch tap, ok := kind.(rtnl.Tap); {
	case ok:
		set.MAC, set.MTU, set.Group, set.Master = s.MAC, s.MTU, s.Group, s.Master
		err = withTap(ns, s.Name, tap, func() error { return rtnl.First(c.Do(rtnl.SetLink(set), rtnl.GetLink(s.Name, got))) })
	case s.Lower.Index == 0 || s.Lower.NS.Same(ns):
		err = rtnl.First(c.Do(rtnl.NewLink(add), rtnl.SetLink(set), rtnl.GetLink(s.Name, got)))
	default:
		add.Other, add.Into, set.Up = true, ns.Fd(), false
		if set.Name, err = across(ctx, s, add); err == nil {
			err = rtnl.First(c.Do(rtnl.SetLink(set), rtnl.GetLink(set.Name, got)))
		}
		if err == nil && (s.Up || set.Name != s.Name) {
			err = rtnl.First(c.Do(rtnl.SetLink(rtnl.Set{Index: made.Index, Rename: s.Name, Up: s.Up}), rtnl.GetLink(s.Name, got)))
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist) && set.Name != s.Name && made.Index != 0: // somebody took the name meanwhile
		return Link{}, errors.Join(err, c.Do(rtnl.DelLinkIndex(made.Index)))
	case errors.Is(err, fs.ErrExist):
		return Link{}, err
	case err != nil: // the kernel may have made it all the same
		return Link{}, errors.Join(err, Remove(context.WithoutCancel(ctx), ns, s))
	}
	return of(made), nil
}

// check refuses what the kernel would take for something else, or refuse without saying why.
func (s Spec) check() (rtnl.Kind, error) {
	if s.Kind == nil {
		return nil, fmt.Errorf("%s: no kind of link is given", s.Name)
	}
	kind, err := s.Kind.device()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", s.Kind.Type(), s.Name, err)
	}
	if s.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("%s: MAC address %s is a group's, which no interface can have", s.Name, s.MAC)
	}
	if s.Lower.Index != 0 {
		if err := s.Lower.NS.Check(); err != nil {
			return nil, fmt.Errorf("the lower device of %s: %w", s.Name, err)
		}
	}
	return kind, errors.Join(rtnl.CheckName(s.Name), rtnl.CheckMTU(s.Name, s.MTU), rtnl.CheckAlias(s.Name, s.Alias))
}

// across makes a link on a device of another namespace, and returns the name that it has at first: before Linux 6.14 the kernel
// refuses one that is taken where the lower device is.
func across(ctx context.Context, s Spec, add rtnl.New) (name string, err error) {
	c, err := open(ctx, s.Lower.NS)
	if err != nil {
		return "", err
	}
	err = c.Do(rtnl.NewLink(add))
	if errors.Is(err, fs.ErrExist) {
		if _, e := c.LinkByName(s.Name); e == nil {
			add.Name = interim(s.Name, s.Alias)
			err = c.Do(rtnl.NewLink(add))
		}
	}
	return add.Name, rtnl.First(err)
}

// interim is the name of a link that is to get another one.
func interim(name, alias string) string {
	sum := sha256.Sum256([]byte(alias + "/" + name))
	return "new" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:7])[:11])
}

// Remove removes the link that [Create] makes of a spec, by its name, kind and alias, and what a Create left that was killed: an
// alias that nobody else's link can have is needed, see [Alias]. One without any alias is removed only if it is as the spec says
// ([Link.Is]) and has its MAC, if that is stated. None is fine.
func Remove(ctx context.Context, ns *netns.NS, s Spec) error {
	c, err := open(ctx, ns)
	if err != nil {
		return err
	}
	var gone []*rtnl.Msg
	got := func(l rtnl.Link) {
		bare := l.Alias == "" && of(l).Is(s.Kind) && (s.MAC == inet.MAC{} || s.MAC == l.MAC)
		if bare || l.Alias == s.Alias && l.Kind == s.Kind.Type() {
			gone = append(gone, rtnl.DelLinkIndex(l.Index))
		}
	}
	if err := rtnl.Except(c.Do(rtnl.GetLink(interim(s.Name, s.Alias), got), rtnl.GetLink(s.Name, got)), fs.ErrNotExist); err != nil {
		return err
	}
	return rtnl.Except(c.Do(gone...), fs.ErrNotExist)
}

// Supported fails if the kernel cannot make links of a kind. It makes none.
func Supported(ctx context.Context, ns *netns.NS, k Kind) error {
	c, err := open(ctx, ns)
	if err != nil {
		return err
	}
	kind, err := Spec{Name: "probe", Kind: k}.check()
	if err != nil {
		return err
	}
	if _, ok := kind.(rtnl.Tap); ok {
		fd, err := openTun(ns)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
	group := inet.MAC{1} // which each kind refuses that the kernel finds
	if err := c.Do(rtnl.NewLink(rtnl.New{Name: "probe", Kind: kind, MAC: group})); errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// DeleteAll removes links of a kind by their indexes, by one deletion: 200 take little longer than two. Those that are gone
// are passed over. If one is of another kind nothing is removed.
func DeleteAll(ctx context.Context, ns *netns.NS, kind string, indexes ...int) error {
	c, err := open(ctx, ns)
	if err != nil || len(indexes) == 0 {
		return err
	}
	links, err := c.Links("")
	if err != nil {
		return err
	}
	chosen := make(map[int]bool, len(indexes))
	for _, i := range indexes {
		chosen[i] = true
	}
	for _, l := range links {
		if chosen[l.Index] {
			if err := isKind(l, kind); err != nil {
				return err
			}
		}
	}
	group := freeGroup(links)
	var msgs []*rtnl.Msg
	for _, i := range indexes {
		msgs = append(msgs, rtnl.SetLink(rtnl.Set{Index: i, Group: group}))
	}
	if err := rtnl.Except(c.Do(msgs...), fs.ErrNotExist); err != nil {
		return err
	}
	return rtnl.Except(c.Do(rtnl.DelLinkGroup(group)), fs.ErrNotExist)
}

// Retain removes the links of a kind in ns that bear an alias of an attachment of the network, save those whose alias is among
// keep, see [Alias].
func Retain(ctx context.Context, ns *netns.NS, kind, network string, keep ...string) error {
	c, err := open(ctx, ns)
	if err != nil {
		return err
	}
	links, err := c.Links(kind)
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(keep))
	for _, alias := range keep {
		live[alias] = true
	}
	var gone []int
	for _, l := range links {
		if strings.HasPrefix(l.Alias, AliasPrefix(network)) && !live[l.Alias] {
			gone = append(gone, l.Index)
		}
	}
	return DeleteAll(ctx, ns, kind, gone...)
}

// freeGroup chooses a link group that no link has.
func freeGroup(links []rtnl.Link) uint32 {
	for {
		group := rand.Uint32() | 1<<30 // far from what people choose
		if !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Group == group }) {
			return group
		}
	}
}
