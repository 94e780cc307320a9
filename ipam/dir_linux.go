package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
)

// Release gives back all leases of an owner. One-line leases of its container go only if it has no others, as with the
// reference. It is no error if there are none, nor if the directory is missing; nothing is created then.
func (d Dir) Release(ctx context.Context, o Owner) error {
	had := false
	err := d.do(ctx, false, func(s *session) error {
		n, err := s.release(o)
		had = had || n > 0
		if err == nil && !had && o.IfName != "" {
			_, err = s.release(o.container())
		}
		return err
	})
	if err != nil && err != errNoDir {
		err = d.withoutIndex(ctx, err, func(v *view) func(Owner) bool {
			if !had && !slices.ContainsFunc(v.leases, func(l found) bool { return l.owner == o }) {
				o = o.container()
			}
			return func(other Owner) bool { return other == o }
		})
	}
	if err == errNoDir {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release the addresses of %s in network %s: %w", o, d.Network, err)
	}
	return nil
}

// withoutIndex releases leases as the reference does, by reading all of them: an index that failed, on a full disk for one,
// must not keep anybody from giving back.
func (d Dir) withoutIndex(ctx context.Context, failed error, gone func(*view) func(Owner) bool) error {
	if d.check() != nil || ctx.Err() != nil {
		return failed
	}
	s, err := d.begin(ctx, "", false)
	if err != nil {
		return failed
	}
	defer s.close()
	v, err := s.scan(ctx)
	if err != nil {
		return failed
	}
	var errs []error
	is := gone(v)
	for _, l := range v.leases {
		if is(l.owner) {
			errs = append(errs, s.net.unlink(l.addr.String()))
		}
	}
	return errors.Join(errs...)
}

// Check makes sure that an owner holds these addresses; without any, that it holds at least one. What nobody holds is
// [fs.ErrNotExist], what somebody else holds [ErrTaken]. A lease of an earlier boot is not held any more.
func (d Dir) Check(ctx context.Context, o Owner, addrs ...netip.Addr) error {
	err := d.do(ctx, false, func(s *session) error {
		if len(addrs) == 0 {
			return s.checkAny(o)
		}
		var errs []error
		for _, a := range addrs {
			errs = append(errs, s.checkOne(o, a.Unmap().WithZone("")))
		}
		return errors.Join(errs...)
	})
	if err == errNoDir {
		err = sentinel.Errorf(fs.ErrNotExist, "no address is leased in this network")
	}
	if err != nil {
		return fmt.Errorf("addresses of %s in network %s: %w", o, d.Network, err)
	}
	return nil
}

func (s *session) checkOne(o Owner, a netip.Addr) error {
	f, err := s.readLease(a)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sentinel.Errorf(fs.ErrNotExist, "%s is leased to nobody", a)
	case err != nil:
		return err
	case !f.of(o):
		return f.holder(a)
	}
	old, err := s.reclaimable(a, f)
	if err == nil && old {
		err = sentinel.Errorf(fs.ErrNotExist, "%s is a lease of an earlier boot", a)
	}
	return err
}

func (s *session) checkAny(o Owner) error {
	for _, o := range []Owner{o, o.container()} {
		slots, err := s.remembered(o)
		if err != nil {
			return err
		}
		for _, sl := range slots {
			if s.checkOne(o, sl.addr) == nil {
				return nil
			}
		}
	}
	return sentinel.Errorf(fs.ErrNotExist, "no address is leased to it")
}

// Retain gives back all leases of owners that keep does not yield, and removes unreadable lease files. A one-line lease
// stays if any owner of its container does. It goes on after an error and returns all of them. A nil keep is an error: it
// may be empty, but has to be stated.
func (d Dir) Retain(ctx context.Context, keep iter.Seq[Owner]) error {
	if keep == nil {
		return fmt.Errorf("release unused addresses of network %s: it is not said which owners to keep; want a sequence, which may be empty", d.Network)
	}
	kept := map[Owner]bool{}
	for o := range keep {
		kept[o], kept[o.container()] = true, true
	}
	err := d.do(ctx, false, func(s *session) error {
		v, err := s.heal(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, l := range v.leases {
			if !kept[l.owner] {
				errs = append(errs, s.remove(l.addr), s.forget(l.owner, about(l.addr)))
			}
		}
		for _, a := range v.torn {
			errs = append(errs, s.remove(a))
		}
		return errors.Join(errs...)
	})
	if err != nil && err != errNoDir {
		err = d.withoutIndex(ctx, err, func(*view) func(Owner) bool { return func(o Owner) bool { return !kept[o] } })
	}
	if err == errNoDir {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release unused addresses of network %s: %w", d.Network, err)
	}
	return nil
}

// Leases lists all leases, by address. It reads every lease file.
func (d Dir) Leases(ctx context.Context) ([]Held, error) {
	var all []Held
	err := d.do(ctx, false, func(s *session) error {
		v, err := s.heal(ctx)
		if err != nil {
			return err
		}
		for _, l := range v.leases {
			all = append(all, Held{l.addr, l.owner, l.boot != s.bootHash})
		}
		return nil
	})
	if err != nil && err != errNoDir {
		return nil, fmt.Errorf("list the addresses of network %s: %w", d.Network, err)
	}
	order.By(all, func(a, b Held) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// Holder says who holds an address, without waiting for anybody. If nobody does it is [fs.ErrNotExist].
func (d Dir) Holder(a netip.Addr) (Owner, error) {
	if err := d.check(); err != nil {
		return Owner{}, err
	}
	a = a.Unmap().WithZone("")
	s, err := d.openNet()
	if errors.Is(err, fs.ErrNotExist) {
		return Owner{}, sentinel.Errorf(fs.ErrNotExist, "%s is leased to nobody", a)
	}
	if err != nil {
		return Owner{}, err
	}
	defer s.close()
	f, err := s.readLease(a)
	if errors.Is(err, fs.ErrNotExist) || err == nil && f.kind == torn {
		return Owner{}, sentinel.Errorf(fs.ErrNotExist, "%s is leased to nobody", a)
	}
	if err == nil && f.kind == foreign {
		return Owner{}, f.holder(a)
	}
	return f.owner, err
}

// release removes the leases of this owner and returns how many there were. Those that were made for it and name its
// container alone by now go if there are no others.
func (s *session) release(o Owner) (n int, err error) {
	slots, err := s.remembered(o)
	if err != nil || len(slots) == 0 {
		return 0, err
	}
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	var shortened []netip.Addr
	for _, sl := range slots {
		f, err := s.readLease(sl.addr)
		note(err)
		switch {
		case err != nil || !f.of(o):
		case f.owner != o:
			shortened = append(shortened, sl.addr)
		default:
			n++
			note(s.remove(sl.addr))
		}
	}
	if n == 0 && errs == nil {
		for _, a := range shortened {
			n++
			note(s.remove(a))
		}
		shortened = nil
	}
	if errs == nil {
		return n, s.forget(o, func(sl slot) bool { return !slices.Contains(shortened, sl.addr) })
	}
	return n, errors.Join(errs...)
}

// remove frees an address.
func (s *session) remove(a netip.Addr) error {
	s.changed, s.spoilt = true, true
	if err := s.net.unlink(a.String()); err != nil {
		return err
	}
	return s.mark(a, false, false)
}

// reclaimable says whether f, the lease file of a, keeps nobody from having the address.
func (s *session) reclaimable(a netip.Addr, f file) (bool, error) {
	if f.kind != lease {
		return f.kind == torn, nil
	}
	slots, err := s.remembered(f.owner)
	return s.earlier(slots, a, f.id), err
}

// earlier says whether the slots know a lease file, and as one of an earlier boot.
func (s *session) earlier(slots []slot, a netip.Addr, id identity) (earlier bool) {
	for _, sl := range slots {
		if sl.addr == a && sl.id == id {
			if sl.boot == s.bootHash {
				return false
			}
			earlier = true
		}
	}
	return earlier
}

// reclaim frees an address whose file is reclaimable.
func (s *session) reclaim(a netip.Addr, f file) error {
	if err := s.remove(a); err != nil || f.kind == torn {
		return err
	}
	return s.forget(f.owner, about(a))
}

func about(a netip.Addr) func(slot) bool { return func(sl slot) bool { return sl.addr == a } }
