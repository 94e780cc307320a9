//go:build linux

package veth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Check finds the pair by the names of its ends and returns it with the zero fields filled in. It fails if an end is not
// there ([io/fs.ErrNotExist]) or down, if the two are not ends of one pair, or if a MAC, an MTU or an alias that is stated
// is another; the bridge and its port are not looked at. The error has every difference, the worst first.
func Check(_ context.Context, p Pair) (Pair, error) {
	host, hostErrs := look(&p.Host)
	pod, podErrs := look(&p.Pod)
	errs := append(hostErrs, podErrs...)
	if host.Index != 0 && pod.Index != 0 {
		if host.Kind != "veth" || pod.Kind != "veth" || host.Peer != pod.Index || pod.Peer != host.Index {
			errs = append([]error{fmt.Errorf("%s is not the other end of %s", p.Pod.Name, p.Host.Name)}, errs...)
		}
	} else if host.Index != 0 { // that the other end is missing is the worst
		errs = append(podErrs, hostErrs...)
	}
	switch {
	case host.Index == 0:
	case p.Alias != "" && host.Alias != p.Alias:
		errs = append(errs, fmt.Errorf("%s has the alias %q; want %q", p.Host.Name, host.Alias, p.Alias))
	default:
		p.Alias = host.Alias
	}
	return p, errors.Join(errs...)
}

// HostEnd finds the end in ns of the pair whose other one is the interface of that name in pod. An interface of another kind, or
// one whose other end is elsewhere, is [io/fs.ErrNotExist], as is none.
func HostEnd(ctx context.Context, ns, pod *netns.NS, name string) (link.Link, error) {
	in, err := link.Get(ctx, pod, name)
	if err = cmp.Or(ns.Check(), err); err != nil {
		return link.Link{}, err
	}
	if in.Kind == "veth" {
		end, err := link.At(ctx, ns, in.Lower)
		if err == nil && end.Kind == in.Kind && end.Lower == in.Index {
			return end, nil
		}
		if rtnl.Except(err, fs.ErrNotExist) != nil {
			return link.Link{}, err
		}
	}
	return link.Link{}, sentinel.Errorf(fs.ErrNotExist, "interface %s of the container, of kind %q, has no veth peer on the node", name, in.Kind)
}

// look fills in the zero fields of an end, and says in what it differs. A link without an index was not found.
func look(e *End) (l rtnl.Link, errs []error) {
	c, err := rtnl.Open(e.NS)
	if err != nil {
		return l, []error{err}
	}
	if l, err = c.LinkByName(e.Name); err != nil {
		return rtnl.Link{}, []error{err}
	}
	if !l.Up() {
		errs = append(errs, fmt.Errorf("%s is down", e.Name))
	}
	if e.MAC != (inet.MAC{}) && e.MAC != l.MAC {
		errs = append(errs, fmt.Errorf("%s has MAC %s; want %s", e.Name, l.MAC, e.MAC))
	}
	if e.MTU != 0 && e.MTU != l.MTU {
		errs = append(errs, fmt.Errorf("%s has MTU %d; want %d", e.Name, l.MTU, e.MTU))
	}
	e.MAC, e.MTU, e.Index = l.MAC, l.MTU, l.Index
	return l, errs
}
