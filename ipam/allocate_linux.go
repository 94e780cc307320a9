package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
)

// Allocate leases one address from each pool to an owner, in the order of the pools, or none at all and an error. A wanted
// address is given by the pool that has it; the others give the next one that is free, round robin. An owner gets what it
// had in an earlier boot again.
//
// If the owner holds a lease of this boot it is [ErrHeld], a wanted address that somebody else holds is [ErrTaken], one that
// no pool may give [ErrNotOffered], and [ErrExhausted] means that a pool has nothing left. Without pools, or with an owner
// that no lease file can name, nothing is done.
func (a Allocator) Allocate(ctx context.Context, o Owner, wanted ...netip.Addr) ([]Lease, error) {
	pools, err := a.pools()
	if err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	want, err := assign(pools, wanted)
	if err != nil {
		return nil, err
	}
	var got []Lease
	err = a.do(ctx, true, func(s *session) error {
		t := &transaction{session: s, owner: o, pools: pools, want: want}
		err := t.run(ctx)
		got = t.leases()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lease for %s in network %s: %w", o, a.Network, err)
	}
	return got, nil
}

// Available counts for each pool how many addresses an owner could get now, those of an earlier boot included, up to
// [MaxAvailable]. It does not read the lease files unless somebody else changed them.
func (a Allocator) Available(ctx context.Context) ([]int, error) {
	pools, err := a.pools()
	if err != nil {
		return nil, err
	}
	n := make([]int, len(pools))
	err = a.do(ctx, false, func(s *session) (err error) {
		for i := range pools {
			if n[i], err = s.available(pools, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err == errNoDir {
		for i, p := range pools {
			n[i] = p.size(gateways(pools, p))
		}
		return n, nil
	}
	if err != nil {
		return nil, fmt.Errorf("free addresses of network %s: %w", a.Network, err)
	}
	return n, nil
}

func (s *session) available(pools []Pool, i int) (n int, err error) {
	for _, g := range gateways(pools, pools[i]) {
		base, off := split(g)
		b, err := s.block(base)
		if err != nil {
			return 0, err
		}
		n += b.live(off, off) - 1 // never free, so it does not count, whether or not it is used
	}
	for _, r := range pools[i] {
		for base := range blocksOf(r.Start, r.End) {
			b, err := s.block(base)
			if err != nil {
				return 0, err
			}
			lo, hi := within(base, r.Start, r.End)
			if n += hi - lo + 1 - b.live(lo, hi); n >= MaxAvailable {
				return MaxAvailable, nil
			}
		}
	}
	return n, nil
}

// transaction is one Allocate.
type transaction struct {
	*session
	owner Owner
	pools []Pool
	want  []netip.Addr // by pool; zero: any
	had   []slot       // leases of the owner from an earlier boot
	known bool         // the index remembers something of the owner
	picks []pick       // by pool
}

// pick is an address that a pool is to give.
type pick struct {
	addr  netip.Addr
	had   *slot // the owner's lease file of an earlier boot, which stays; nil: there will be a new one
	taken *file // the lease file in the way, which goes; nil: there is none
	draft draft
}

func (t *transaction) run(ctx context.Context) error {
	for range 4 {
		err := t.try()
		// The index may promise too little, or too much: read the directory before giving up.
		if !errors.Is(err, errStale) && (t.healed || !errors.Is(err, ErrExhausted)) {
			return err
		}
		if _, err := t.heal(ctx); err != nil {
			return err
		}
	}
	return errStale
}

// errStale: the directory is not as the index says.
var errStale = errors.New("lease directory changes while it is locked")

func (t *transaction) try() error {
	t.had, t.picks = nil, make([]pick, len(t.pools))
	if err := t.ownLeases(); err != nil {
		return err
	}
	for i := range t.pools {
		if err := t.choose(i); err != nil {
			return err
		}
	}
	return t.commit()
}

// ownLeases finds what the owner had in an earlier boot. What it has in this one is an error.
func (t *transaction) ownLeases() error {
	for _, o := range []Owner{t.owner, t.owner.container()} {
		slots, err := t.remembered(o)
		if err != nil {
			return err
		}
		t.known = t.known || len(slots) > 0
		for _, e := range slots {
			f, err := t.readLease(e.addr)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !f.of(o) {
				continue
			}
			if err != nil {
				return err
			}
			if !t.earlier(slots, e.addr, f.id) {
				return fmt.Errorf("%w, %s: release it first", ErrHeld, e.addr)
			}
			if o == t.owner && e.id == f.id {
				t.had = append(t.had, e)
			}
		}
	}
	return nil
}

// choose decides what pool i gives. It changes nothing.
func (t *transaction) choose(i int) error {
	p := &t.picks[i]
	for _, e := range t.had {
		if _, ok := t.pools[i].Range(e.addr); !ok || isGateway(t.pools, e.addr) {
			continue
		}
		if !t.want[i].IsValid() || t.want[i] == e.addr {
			p.addr, p.had = e.addr, &e
			return nil
		}
	}
	if t.want[i].IsValid() {
		return t.chooseWanted(i)
	}
	var err error
	if p.addr, err = t.next(i, used, false); err != nil || p.addr.IsValid() {
		return err
	}
	return t.chooseStale(i)
}

func (t *transaction) chooseWanted(i int) error {
	p := &t.picks[i]
	p.addr = t.want[i]
	f, err := t.readLease(p.addr)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	free, err := t.reclaimable(p.addr, f)
	if err != nil {
		return err
	}
	if !free {
		return f.holder(p.addr)
	}
	p.taken = &f
	return nil
}

// chooseStale takes the first address of an earlier boot, in the same order as the free ones.
func (t *transaction) chooseStale(i int) error {
	p := &t.picks[i]
	for {
		a, err := t.next(i, stale, true)
		if err != nil {
			return err
		}
		if !a.IsValid() {
			n := t.pools[i].size(gateways(t.pools, t.pools[i]))
			return fmt.Errorf("%w in range set %d (%s), all %d are in use: release what is not needed any more, or add a range",
				ErrExhausted, i, t.pools[i], n)
		}
		f, err := t.readLease(a)
		if err == nil {
			free, err := t.reclaimable(a, f)
			if free || err != nil {
				p.addr, p.taken = a, &f
				return err
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		t.changed = true
		if err := t.mark(a, err == nil, false); err != nil {
			return err
		}
	}
}

// next returns the first address of pool i, in round robin order, whose bit in m is v; the zero Addr if there is none.
func (t *transaction) next(i int, m bitmap, v bool) (netip.Addr, error) {
	never := gateways(t.pools, t.pools[i])
	for _, part := range t.pools[i].after(t.lastReserved(i)) {
		for base := range blocksOf(part.first, part.last) {
			b, err := t.block(base)
			if err != nil {
				return netip.Addr{}, err
			}
			lo, hi := within(base, part.first, part.last)
			for off := b.find(m, v, lo, hi); off >= 0; off = b.find(m, v, off+1, hi) {
				if a := at(base, off); !slices.Contains(never, a) {
					return a, nil
				}
			}
		}
	}
	return netip.Addr{}, nil
}

// commit makes the chosen leases. The index knows of a lease file before it has its name, never after.
func (t *transaction) commit() (err error) {
	var drafts []draft
	defer func() { t.discard(drafts...) }()
	var slots []slot
	fresh := false
	for i := range t.picks {
		p := &t.picks[i]
		sl := slot{owner: keyOf(t.owner), addr: p.addr, boot: t.bootHash}
		if p.had != nil {
			sl.id = p.had.id
		} else {
			if p.draft, err = t.draft(t.owner); err != nil {
				return err
			}
			drafts = append(drafts, p.draft)
			sl.id, fresh = p.draft.id, true
		}
		slots = append(slots, sl)
	}
	if err := t.clear(); err != nil {
		return err
	}
	if !fresh {
		if err := t.spoil(); err != nil {
			return err
		}
	}
	if err := t.remember(slots); err != nil {
		return err
	}
	if t.known {
		old := func(sl slot) bool { return !slices.Contains(slots, sl) }
		if err := t.forget(t.owner, old); err != nil {
			return err
		}
	}
	return t.publishAll()
}

// clear removes the lease files that are in the way, and those that the owner had and does not get again.
func (t *transaction) clear() error {
	for _, p := range t.picks {
		if p.taken != nil {
			if err := t.reclaim(p.addr, *p.taken); err != nil {
				return err
			}
		}
	}
	for _, e := range t.had {
		if !slices.ContainsFunc(t.picks, func(p pick) bool { return p.addr == e.addr }) {
			if err := t.remove(e.addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// publishAll gives the new lease files their names, or takes everything back.
func (t *transaction) publishAll() error {
	for i, p := range t.picks {
		if p.had != nil {
			continue
		}
		if err := t.publish(p.draft, p.addr); err != nil {
			if errors.Is(err, fs.ErrExist) {
				err = fmt.Errorf("%s: %w", p.addr, errStale)
			}
			return errors.Join(err, t.takeBack(i))
		}
	}
	for i, p := range t.picks {
		t.setLastReserved(i, p.addr)
		if err := t.mark(p.addr, true, false); err != nil {
			return errors.Join(err, t.takeBack(len(t.picks)))
		}
	}
	return nil
}

// takeBack removes the first n leases. The index is out of step then, and its times say so.
func (t *transaction) takeBack(n int) error {
	errs := []error{t.spoil()}
	for _, p := range t.picks[:n] {
		errs = append(errs, t.net.unlink(p.addr.String()))
	}
	return errors.Join(errs...)
}

func (t *transaction) leases() []Lease {
	var all []Lease
	for i, p := range t.picks {
		r, _ := t.pools[i].Range(p.addr)
		all = append(all, Lease{netip.PrefixFrom(p.addr, r.Subnet.Bits()), r.Gateway, i})
	}
	return all
}
