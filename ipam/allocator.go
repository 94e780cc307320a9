package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Allocator leases addresses from pools to owners, and keeps the leases in its Dir.
type Allocator struct {
	Dir
	// Pools need not be canonical; at least one is needed. The file last_reserved_ip.N belongs to Pools[N], as with the reference.
	Pools []Pool
}

// MaxAvailable is where [Allocator.Available] stops counting.
const MaxAvailable = 1 << 20

// pools are the canonical pools.
func (a Allocator) pools() ([]Pool, error) {
	if len(a.Pools) == 0 {
		return nil, fmt.Errorf("network %s has no pool to lease an address from: give at least one with a range", a.Network)
	}
	return Canonical(a.Pools...)
}

// assign decides which pool gives which wanted address. The result has one element for each pool, zero where any will do.
func assign(pools []Pool, wanted []netip.Addr) ([]netip.Addr, error) {
	want := make([]netip.Addr, len(pools))
	for _, a := range wanted {
		a = a.Unmap()
		i := slices.IndexFunc(pools, func(p Pool) bool { _, ok := p.Range(a); return ok })
		switch {
		case i < 0:
			return nil, &NotOfferedError{a, "it is in no range of this network (" + join(pools) + ")"}
		case isGateway(pools, a):
			return nil, &NotOfferedError{a, "it is the gateway"}
		case want[i].IsValid() && want[i] != a:
			return nil, &NotOfferedError{a, fmt.Sprintf("range set %d (%s) gives one address and %s is asked of it too", i, pools[i], want[i])}
		}
		want[i] = a
	}
	return want, nil
}

func isGateway(pools []Pool, a netip.Addr) bool {
	return slices.ContainsFunc(pools, func(p Pool) bool {
		return slices.ContainsFunc(p, func(r Range) bool { return r.Gateway == a })
	})
}

// gateways lists the addresses of the pool that are some pool's gateway.
func gateways(pools []Pool, p Pool) []netip.Addr {
	var in []netip.Addr
	for _, q := range pools {
		for _, r := range q {
			if _, ok := p.Range(r.Gateway); ok && !slices.Contains(in, r.Gateway) {
				in = append(in, r.Gateway)
			}
		}
	}
	return in
}

// size is the number of addresses that the pool may hand out, up to [MaxAvailable].
func (p Pool) size(gateways []netip.Addr) int {
	n := 0
	for _, r := range p {
		n = min(n+min(r.size(), 2*MaxAvailable), 2*MaxAvailable)
	}
	return min(n-len(gateways), MaxAvailable)
}

func join(pools []Pool) string {
	var s string
	for i, p := range pools {
		if i > 0 {
			s += "; "
		}
		s += p.String()
	}
	return s
}

// interval is a part of a range.
type interval struct{ first, last netip.Addr }

// after is the pool in the order in which its addresses are tried: what follows the address that was given last, to the
// end of its range, the other ranges in turn, and then what comes before it.
func (p Pool) after(last netip.Addr) []interval {
	var order []interval
	i := slices.IndexFunc(p, func(r Range) bool { return r.Contains(last) })
	if i < 0 {
		for _, r := range p {
			order = append(order, interval{r.Start, r.End})
		}
		return order
	}
	if last != p[i].End {
		order = append(order, interval{last.Next(), p[i].End})
	}
	for j := 1; j < len(p); j++ {
		r := p[(i+j)%len(p)]
		order = append(order, interval{r.Start, r.End})
	}
	return append(order, interval{p[i].Start, last})
}
