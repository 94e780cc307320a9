//go:build linux

package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// formerGateways removes what plugins left on bridges for ranges of the network that are not this node's any more, unless
// pods use them: the kernel's route to such a range would win over the one to the node that has it now.
func (c *core) formerGateways(ctx context.Context) error {
	addrs, err := c.conn.Addrs(0)
	if err != nil {
		return err
	}
	network := append(slices.Clone(c.allPrefixes()), c.former...)
	stays := map[int][]bridge.Gateway{}
	var on []int
	for _, a := range addrs {
		one := []netip.Prefix{netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen())}
		switch {
		case a.Proto != link.Proto:
		case overlaps(one, network) && !overlaps(one, c.self.Pods):
			on = append(on, a.Link)
		default:
			stays[a.Link] = append(stays[a.Link], bridge.GatewayAt(a.Prefix))
		}
	}
	if len(on) == 0 {
		return nil
	}
	links, err := c.conn.Links("")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		foot := l.Kind == "veth" && l.PeerNS == 0 // in a VLAN of a bridge
		if slices.Contains(on, l.Index) && (l.Kind == "bridge" || foot) {
			errs = append(errs, c.retireOn(ctx, l, stays[l.Index]))
		}
	}
	return errors.Join(errs...)
}

func (c *core) retireOn(ctx context.Context, l rtnl.Link, stays []bridge.Gateway) error {
	return bridge.Gateways{NS: c.NS, Index: l.Index, Name: l.Name, Configured: stays, Held: func(s netip.Prefix) bool {
		n, err := c.users([]netip.Prefix{s})
		return err != nil || n > 0
	}}.Retire(ctx)
}
