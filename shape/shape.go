//go:build linux

package shape

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Device is the one whose traffic is limited.
type Device struct {
	Name  string // of the interface
	Owner string // alias of the helper, for [Revoke] and [Retain]
	// Helper is the preferred name of the helper that a limit of what the device receives needs. One that is derived from the
	// owner is taken if it is empty, or if a helper of another owner has it.
	Helper string
}

// Group is the link group of host ends to which somebody gave a helper by hand: whoever removes one of them removes that too. Where a
// bandwidth plugin is in the chain its DEL has done so before.
const Group = 118

const (
	kind   = "ifb" // of helpers
	bucket = "tbf"
	// The handles of our queueing disciplines: the first is that of the reference's too, the others say that an administrator
	// has set a limit, and that he has lifted it.
	handle, heldHandle, liftedHandle = 1, 0xcb01, 0xcb02
)

// derived is the name of an owner's helper.
func derived(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return "ifb" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:8])[:12])
}

// state is what a look finds.
type state struct {
	dev, helper rtnl.Link // Index 0: there is none
	free        string    // the name that a helper would get
	out, in     rtnl.Qdisc
	ingress     rtnl.Qdisc
	redirects   []rtnl.Redirect
	others      int // filters of others among what the device receives
}

// leads reports whether what the device receives goes to the helper.
func (s *state) leads() bool {
	for _, r := range s.redirects {
		if r.To == s.helper.Index {
			return r.To != 0
		}
	}
	return false
}

// ask sends questions whose answer may be that there is no such thing.
func ask(c *rtnl.Conn, msgs ...*rtnl.Msg) error {
	return rtnl.Except(c.Do(msgs...), fs.ErrNotExist, unix.EINVAL)
}

// open looks at a device, over a connection with which it can be changed.
func (d Device) open(ctx context.Context, ns *netns.NS) (c *rtnl.Conn, s state, err error) {
	if err := ctx.Err(); err != nil {
		return nil, s, err
	}
	if c, err = rtnl.Open(ns); err != nil {
		return nil, s, err
	}
	s, err = d.look(c)
	return c, s, err
}

// look reads what concerns the device. One that is not there is no error.
func (d Device) look(c *rtnl.Conn) (s state, err error) {
	var preferred, own rtnl.Link
	msgs := []*rtnl.Msg{rtnl.GetLink(derived(d.Owner), func(l rtnl.Link) { own = l })}
	if d.Helper != "" {
		msgs = append(msgs, rtnl.GetLink(d.Helper, func(l rtnl.Link) { preferred = l }))
	}
	if d.Name != "" {
		msgs = append(msgs, rtnl.GetLink(d.Name, func(l rtnl.Link) { s.dev = l }))
	}
	if err := ask(c, msgs...); err != nil {
		return s, err
	}
	s.free = cmp.Or(d.Helper, derived(d.Owner))
	switch {
	case d.mine(own):
		s.helper = own
	case d.mine(preferred):
		s.helper = preferred
	case preferred.Index != 0:
		s.free = derived(d.Owner)
	}
	return s, s.disciplines(c)
}

// mine reports whether a device is a helper of the owner. One without an alias is the reference's, or of an [Ensure] that was
// killed.
func (d Device) mine(l rtnl.Link) bool {
	return l.Kind == kind && (l.Alias == d.Owner || l.Alias == "")
}

func (s *state) disciplines(c *rtnl.Conn) (err error) {
	var msgs []*rtnl.Msg
	if s.dev.Index != 0 {
		msgs = append(msgs, rtnl.GetQdisc(s.dev.Index, rtnl.Root, func(q rtnl.Qdisc) { s.out = q }),
			rtnl.GetQdisc(s.dev.Index, rtnl.Ingress, func(q rtnl.Qdisc) { s.ingress = q }))
	}
	if s.helper.Index != 0 {
		msgs = append(msgs, rtnl.GetQdisc(s.helper.Index, rtnl.Root, func(q rtnl.Qdisc) { s.in = q }))
	}
	if err := ask(c, msgs...); err != nil || s.ingress.Kind == "" {
		return err
	}
	s.redirects, s.others, err = c.Filters(s.dev.Index)
	return err
}

// ours reports whether a discipline is one that this package, or the reference, makes.
func ours(q rtnl.Qdisc) bool {
	return held(q) || q.Handle == handle && q.Kind == bucket
}

func held(q rtnl.Qdisc) bool { return q.Handle == heldHandle || q.Handle == liftedHandle }

// free reports whether nobody has set a discipline.
func free(q rtnl.Qdisc) bool { return q.Handle == 0 }

// discipline is what makes a limit.
func discipline(index int, l Limit, mtu int) rtnl.Qdisc {
	q := rtnl.Qdisc{Link: index, Parent: rtnl.Root, Handle: handle, Kind: bucket}
	if l.Held {
		q.Handle = heldHandle
	}
	if l.Rate == 0 {
		q.Handle, q.Kind = liftedHandle, "pfifo"
		return q
	}
	l = l.Complete(mtu)
	q.TBF = rtnl.TBF{Rate: l.Rate / 8, Burst: uint32(l.Burst), Limit: l.queue(mtu)}
	return q
}

// limit is what a discipline lets pass.
func limit(q rtnl.Qdisc) Limit {
	if !ours(q) {
		return Limit{}
	}
	return Limit{Rate: q.TBF.Rate * 8, Burst: uint64(q.TBF.Burst), Held: held(q)}
}

func (d Device) fail(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("rate limits of %s: %w", d.Name, err)
}

// Ensure makes the limits those of the device, at once for what passes from now on. It returns the helper, the zero Link
// where none is needed. A limit of no rate that is not held means that there is none, and takes away what Ensure made before.
func Ensure(ctx context.Context, ns *netns.NS, d Device, l Limits) (link.Link, error) {
	if err := rtnl.CheckAlias("helper of "+d.Name, d.Owner); err != nil {
		return link.Link{}, d.fail(err)
	}
	if d.Owner == "" {
		return link.Link{}, d.fail(errors.New("it has no owner"))
	}
	c, s, err := d.open(ctx, ns)
	if err == nil {
		err = d.ensure(ctx, ns, c, &s, l)
	}
	if err != nil || s.helper.Index == 0 {
		return link.Link{}, d.fail(err)
	}
	return link.At(ctx, ns, s.helper.Index)
}

func (l Limit) none() bool { return l.Rate == 0 && !l.Held }

func (d Device) validate(s *state, l Limits) error {
	out, in := l.Out.Validate(s.dev.MTU), l.In.Validate(s.dev.MTU)
	switch {
	case s.dev.Index == 0:
		return fmt.Errorf("there is no such interface: %w", fs.ErrNotExist)
	case out != nil:
		return fmt.Errorf("what it sends: %w", out)
	case in != nil:
		return fmt.Errorf("what it receives: %w", in)
	case !l.Out.none() && !free(s.out) && !ours(s.out):
		return fmt.Errorf("it has a queueing discipline of others, %s %x: remove it with `tc qdisc del dev %s root`", s.out.Kind, s.out.Handle, s.dev.Name)
	}
	return nil
}

func (d Device) ensure(ctx context.Context, ns *netns.NS, c *rtnl.Conn, s *state, l Limits) error {
	if err := d.validate(s, l); err != nil {
		return err
	}
	var msgs []*rtnl.Msg
	switch {
	case l.Out == limit(s.out):
	case !l.Out.none():
		msgs = append(msgs, rtnl.ReplaceQdisc(discipline(s.dev.Index, l.Out, s.dev.MTU)))
	case ours(s.out):
		msgs = append(msgs, rtnl.DelQdisc(s.dev.Index, rtnl.Root, s.out.Handle))
	}
	if l.In.none() {
		err := c.Do(append(msgs, s.straighten()...)...)
		s.helper = rtnl.Link{}
		return err
	}
	switch {
	case s.helper.Index == 0:
		made, err := link.Create(ctx, ns, link.Spec{Name: s.free, Kind: link.IFB{}, MTU: min(s.dev.MTU, 65535), Alias: d.Owner, Up: true})
		if err != nil {
			return err
		}
		s.helper = rtnl.Link{Name: made.Name, Index: made.Index, MAC: made.MAC}
	case s.helper.Alias == "" || !s.helper.Up():
		msgs = append(msgs, rtnl.SetLink(rtnl.Set{Index: s.helper.Index, Alias: d.Owner, Up: true}))
	}
	if l.In != limit(s.in) {
		msgs = append(msgs, rtnl.ReplaceQdisc(discipline(s.helper.Index, l.In, s.dev.MTU)))
	}
	if s.ingress.Kind == "" {
		msgs = append(msgs, rtnl.NewQdisc(rtnl.Qdisc{Link: s.dev.Index, Parent: rtnl.Ingress, Kind: "ingress"}))
	}
	if !s.leads() {
		for _, r := range s.redirects {
			if r.To == 0 {
				msgs = append(msgs, rtnl.DelRedirect(r))
			}
		}
		msgs = append(msgs, rtnl.NewRedirect(s.dev.Index, s.helper.Index))
	}
	return rtnl.First(c.Do(msgs...))
}

// straighten ends the way by the helper: the filter before the device that it leads to, since one that leads nowhere drops all.
func (s *state) straighten() (msgs []*rtnl.Msg) {
	left := s.others
	var del []*rtnl.Msg
	for _, r := range s.redirects {
		if r.To == 0 || r.To == s.helper.Index {
			del = append(del, rtnl.DelRedirect(r))
		} else {
			left++
		}
	}
	if len(del) > 0 && left == 0 && s.ingress.Kind == "ingress" {
		del = []*rtnl.Msg{rtnl.DelQdisc(s.dev.Index, rtnl.Ingress, 0)}
	}
	if s.helper.Index != 0 {
		del = append(del, rtnl.DelLinkIndex(s.helper.Index))
	}
	return del
}

// Get reads the limits of a device, whoever set them in the way of this package. No interface of that name is
// [io/fs.ErrNotExist].
func Get(ctx context.Context, ns *netns.NS, name string) (l Limits, err error) {
	d := Device{Name: name}
	if err := ctx.Err(); err != nil {
		return l, d.fail(err)
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return l, d.fail(err)
	}
	var s state
	if s.dev, err = c.LinkByName(name); err != nil {
		return l, d.fail(err)
	}
	err = s.follow(c)
	return s.limits(), d.fail(err)
}

// follow reads the disciplines of a device and of the helper that it leads to.
func (s *state) follow(c *rtnl.Conn) error {
	if err := s.disciplines(c); err != nil {
		return err
	}
	for _, r := range s.redirects {
		to, err := c.LinkByIndex(r.To)
		if err != nil || to.Kind != kind {
			continue
		}
		s.helper = to
		return ask(c, rtnl.GetQdisc(to.Index, rtnl.Root, func(q rtnl.Qdisc) { s.in = q }))
	}
	return nil
}

func (s *state) limits() Limits { return Limits{Out: limit(s.out), In: limit(s.in)} }

// Check fails unless the device has the limits, and says each difference. In a direction whose limit an administrator holds,
// that one counts; in one that is to have no limit nothing is looked at. A burst of 0 is any that lets packets pass.
func Check(ctx context.Context, ns *netns.NS, d Device, l Limits) error {
	_, s, err := d.open(ctx, ns)
	if err != nil {
		return d.fail(err)
	}
	if s.dev.Index == 0 {
		return d.fail(fmt.Errorf("there is no such interface: %w", fs.ErrNotExist))
	}
	found := []error{differs("what it sends", s.out, l.Out)}
	if !l.In.none() {
		switch {
		case s.helper.Index == 0:
			found = append(found, fmt.Errorf("what it receives: the device %s is missing", s.free))
		case !s.helper.Up():
			found = append(found, fmt.Errorf("what it receives: the device %s is down", s.helper.Name))
		case !s.leads():
			found = append(found, fmt.Errorf("what it receives: no filter redirects it to the device %s", s.helper.Name))
		default:
			found = append(found, differs("what it receives", s.in, l.In))
		}
	}
	return d.fail(errors.Join(found...))
}

func differs(what string, q rtnl.Qdisc, want Limit) error {
	if want.none() || held(q) {
		return nil
	}
	have := limit(q)
	if have.Rate != want.Rate/8*8 {
		return fmt.Errorf("%s: there is %s; want %s", what, have, want)
	}
	ticks := rtnl.TBF{Rate: want.Rate / 8, Burst: uint32(want.Burst)}.Fill().Ticks
	off := int32(q.TBF.Ticks - ticks) // of a time that wraps
	const rounded = 16                // the reference counts whole microseconds
	if want.Burst != 0 && max(off, -off) > int32(ticks>>10)+rounded {
		return fmt.Errorf("%s: the burst is %d bytes, not %d", what, have.Burst, want.Burst)
	}
	return nil
}
