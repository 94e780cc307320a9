package bridge

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// checkMTU refuses an IPv6 address on an interface that cannot carry IPv6.
func (c *conf) checkMTU(a netip.Addr) error {
	if c.MTU == 0 || c.MTU >= bridge.MinMTU6 || !a.Is6() || a.Is4In6() {
		return nil
	}
	return cni.Errorf(cni.ErrConfig, `netconf: key "mtu" is %d, and IPv6 (%s) needs at least %d; want more, or no IPv6 range`, c.MTU, a, bridge.MinMTU6)
}

// hostMTU is that of the host end: the pod's, with which the kernel keeps the MTU of the bridge at the least of all. One
// that IPv6 cannot be carried with stays inside of the pod where the bridge bears IPv6 addresses for other pods, which it
// would lose for good: there the host end has the bridge's.
func (j *job) hostMTU(br bridge.State) (int, error) {
	if j.MTU == 0 || j.MTU >= bridge.MinMTU6 || br.New {
		return j.MTU, nil
	}
	c, err := rtnl.Open(j.host)
	if err != nil {
		return 0, err
	}
	have, err := c.Addrs(br.Index)
	if slices.ContainsFunc(have, func(a rtnl.Addr) bool {
		return a.Prefix.Addr().Is6() && (a.Proto == link.Proto || !a.Prefix.Addr().IsLinkLocalUnicast())
	}) {
		return br.MTU, err
	}
	return j.MTU, err
}

// checkWidth refuses a bridge that is too narrow for the IPv6 gateways of this network and not ours to widen.
func (j *job) checkWidth(br bridge.State) error {
	for _, r := range slices.Concat(j.pools...) {
		if j.IsGateway && j.VLAN == 0 && r.Subnet.Addr().Is6() {
			return tooNarrow(br)
		}
	}
	return nil
}

func tooNarrow(br bridge.State) error {
	if br.MTU >= bridge.MinMTU6 || br.Ours {
		return nil
	}
	return cni.Errorf(cni.ErrConfig, "netconf: key \"bridge\": %s has MTU %d, which is too little for IPv6, and was not made by cniblocks: raise it with 'ip link set %[1]s mtu %[3]d', or choose another bridge",
		br.Name, br.MTU, bridge.MinMTU6)
}

// widen lets a device of the bridge bear the gateways if ports of another network made it too narrow for IPv6.
func (j *job) widen(ctx context.Context, br bridge.State, families []inet.Family) error {
	if br.MTU >= bridge.MinMTU6 || !slices.Contains(families, inet.IPv6) {
		return nil
	}
	if err := tooNarrow(br); err != nil {
		return err
	}
	const ethernet = 1500
	return bridge.Widen(ctx, j.host, br.Name, cmp.Or(j.MTU, ethernet))
}
