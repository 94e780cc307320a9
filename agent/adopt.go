//go:build linux

package agent

import (
	"context"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// clear ends a takeover, when ours is in place: the bridge of the pods gets our marks, and flannel's firewall rules go.
func (r *runner) clear(ctx context.Context) error {
	links, err := r.conn.Links("bridge")
	if err != nil {
		return err
	}
	addrs, err := r.conn.Addrs(0)
	if err != nil {
		return err
	}
	for _, l := range links {
		mine := slices.ContainsFunc(addrs, func(a rtnl.Addr) bool {
			return a.Link == l.Index && slices.ContainsFunc(r.self.Pods, func(p netip.Prefix) bool { return p.Contains(a.Prefix.Addr()) })
		})
		if !mine || l.Alias != "" {
			continue
		}
		r.log.Info("a bridge is taken over", "bridge", l.Name)
		if err := r.conn.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Alias: link.NetworkAlias(r.Network), Group: bridge.Group})); err != nil {
			return err
		}
	}
	return foreign.RemoveFlannel(ctx, r.NS)
}
