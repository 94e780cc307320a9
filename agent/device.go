//go:build linux

package agent

import (
	"context"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/link"
)

// bridge makes the bridge that an L2 tunnel is a port of; plugins make it too, whoever is first.
func (r *runner) bridge(ctx context.Context, c *carrier) error {
	if !c.L2 {
		return nil
	}
	_, err := bridge.Ensure(ctx, r.NS, bridge.Bridge{Name: c.Tunnel.Bridge, Alias: link.NetworkAlias(r.Network)})
	return err
}
