//go:build linux

package veth

import (
	"context"
	"fmt"

	"github.com/cniblocks/cniblocks/internal/rtnl"
)

// Check finds the pair by the names of its ends and returns it with the zero fields filled in. It fails if an end is not
// there ([io/fs.ErrNotExist]) or down, if the two are not ends of one pair, or if a MAC, an MTU or an alias that is stated
// is another; the bridge and its port are not looked at.
func Check(_ context.Context, p Pair) (Pair, error) {
	host, err := look(&p.Host)
	if err != nil {
		return p, err
	}
	pod, err := look(&p.Pod)
	if err != nil {
		return p, err
	}
	switch {
	case host.Kind != "veth" || pod.Kind != "veth" || host.Peer != pod.Index || pod.Peer != host.Index:
		return p, fmt.Errorf("%s is not the other end of %s", p.Pod.Name, p.Host.Name)
	case p.Alias != "" && host.Alias != p.Alias:
		return p, fmt.Errorf("%s has the alias %q; want %q", p.Host.Name, host.Alias, p.Alias)
	}
	p.Alias = host.Alias
	return p, nil
}

func look(e *End) (rtnl.Link, error) {
	c, err := rtnl.Open(e.NS)
	if err != nil {
		return rtnl.Link{}, err
	}
	l, err := c.LinkByName(e.Name)
	switch {
	case err != nil:
		return l, err
	case !l.Up():
		return l, fmt.Errorf("%s is down", e.Name)
	case e.MAC != MAC{} && e.MAC != l.MAC:
		return l, fmt.Errorf("%s has MAC %s; want %s", e.Name, l.MAC, e.MAC)
	case e.MTU != 0 && e.MTU != l.MTU:
		return l, fmt.Errorf("%s has MTU %d; want %d", e.Name, l.MTU, e.MTU)
	}
	e.MAC, e.MTU, e.Index = l.MAC, l.MTU, l.Index
	return l, nil
}
