// Package sources has what SNAT and the way through FORWARD have in common: whose packets are meant, and how chains of iptables
// say so.
package sources

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/order"
)

// Set says whose packets are meant, and where they may go as they are: what is wanted of one family, or in place.
type Set struct {
	Ranges, Except Ranges
	Pods           map[netip.Addr]string // the owner as comments have it, by address
}

// Of is the part of a family of ranges and pods, those by their owners.
func Of(f inet.Family, ranges []inet.Range, pods map[netip.Addr]string) Set {
	s := Set{Pods: map[netip.Addr]string{}}
	var own []inet.Range
	for _, r := range ranges {
		if inet.FamilyOf(r.Start) == f {
			own = append(own, r)
		}
	}
	s.Ranges = NewRanges(own...)
	for a, owner := range pods {
		if inet.FamilyOf(a) == f {
			s.Pods[a] = mark.Name(owner)
		}
	}
	return s
}

// Names are the owners as comments have them.
func Names(owners []string) map[string]bool {
	out := map[string]bool{}
	for _, o := range owners {
		out[mark.Name(o)] = true
	}
	return out
}

// Validate says what is wrong with ranges and pods.
func Validate(ranges []inet.Range, pods map[netip.Addr]string) error {
	for _, r := range ranges {
		if err := r.Validate(); err != nil {
			return err
		}
	}
	for _, a := range order.Sorted(maps.Keys(pods), netip.Addr.Compare) {
		if pods[a] == "" {
			return fmt.Errorf("the pod with address %s has no owner", a)
		}
		if err := (inet.Range{Start: a, End: a}).Validate(); err != nil {
			return fmt.Errorf("pod %s: %w", pods[a], err)
		}
	}
	return nil
}

// Empty reports whether nobody is meant.
func (s Set) Empty() bool { return len(s.Ranges) == 0 && len(s.Pods) == 0 }

// Grow is what is in place plus what is wanted.
func (s Set) Grow(want Set) Set {
	if want.Empty() {
		return s
	}
	pods := map[netip.Addr]string{}
	maps.Copy(pods, s.Pods)
	maps.Copy(pods, want.Pods)
	return Set{Ranges: s.Ranges.Union(want.Ranges), Except: s.Except.Union(want.Except), Pods: pods}
}

// Shrink is what is wanted, plus the pods in place whose owners still live.
func (s Set) Shrink(want Set, owners map[string]bool) Set {
	pods := maps.Clone(want.Pods)
	for a, owner := range s.Pods {
		if owners[owner] {
			pods[a] = owner
		}
	}
	out := Set{Ranges: want.Ranges, Except: want.Except, Pods: pods}
	if want.Empty() && !out.Empty() {
		out.Except = s.Except
	}
	if out.Empty() {
		out.Except = nil
	}
	return out
}

// Lacks says what of want is not in h, one phrase each.
func (s Set) Lacks(want Set) (out []string) {
	for _, r := range want.Ranges.Minus(s.Ranges) {
		out = append(out, fmt.Sprintf("addresses %s are not masqueraded", r))
	}
	for a, owner := range want.Pods {
		if s.Pods[a] != owner {
			out = append(out, fmt.Sprintf("address %s of %s is not masqueraded", a, owner))
		}
	}
	for _, r := range want.Except.Minus(s.Except) {
		out = append(out, fmt.Sprintf("destinations %s are not excepted", r))
	}
	return out
}

// Without is what is in place less the pods of an owner.
func (s Set) Without(owner string) Set {
	pods := map[netip.Addr]string{}
	for a, o := range s.Pods {
		if o != owner {
			pods[a] = o
		}
	}
	return Set{Ranges: s.Ranges, Except: s.Except, Pods: pods}
}
