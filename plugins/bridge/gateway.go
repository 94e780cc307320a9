package bridge

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
)

// unfit says why a bridge that is not there yet could not get the gateways.
func (j *job) unfit(ctx context.Context) error {
	g := j.gatewaysOn(0, j.Bridge)
	if err := g.Fit(ctx, g.Configured...); err != nil {
		return config(err)
	}
	const key = "net/ipv6/conf/default/disable_ipv6" // a new link begins with it
	if v, err := sysctl.Get(j.Node, key); err == nil && v == "1" && slices.ContainsFunc(g.Configured, func(g bridge.Gateway) bool { return g.Addr.Is6() }) {
		return cni.Errorf(cni.ErrConfig, "IPv6 is switched off on %s, as on every new link: set sysctl %s to 0, or remove the IPv6 range", j.Bridge, key)
	}
	return nil
}

// config makes an error one of the configuration if that is what it is.
func config(err error) error {
	switch {
	case errors.Is(err, bridge.ErrConflict):
		return cni.Errorf(cni.ErrConfig, `netconf: keys "bridge" and "ipam": %w`, err)
	case errors.Is(err, bridge.ErrNotBridge), errors.Is(err, bridge.ErrNarrow):
		return cni.Errorf(cni.ErrConfig, `netconf: key "bridge": %w`, err)
	}
	return err
}

// ensureGateways puts the gateways on the bridge, or on the device of its VLAN, and lets the node forward.
func (j *job) ensureGateways(ctx context.Context, br bridge.State, port int, res *cni.Result) error {
	if !j.IsGateway || len(res.IPs) == 0 {
		return nil
	}
	want, families := gatewaysOf(res)
	if err := j.widen(ctx, br, families); err != nil {
		return err
	}
	j.gateways = j.gatewaysOn(br.Index, br.Name)
	if j.VLAN != 0 {
		gw, err := bridge.VLANGateway(ctx, j.Node, br, j.port.VLAN, link.NetworkAlias(j.Network), j.PreserveDefaultVLAN)
		if err != nil {
			return err
		}
		if err := j.widen(ctx, bridge.State{Name: gw.Name, MTU: gw.MTU, Ours: true}, families); err != nil {
			return err
		}
		j.gateways = j.gatewaysOn(gw.Index, gw.Name)
		res.Interfaces = append(res.Interfaces, cni.Interface{Name: gw.Name, MAC: gw.MAC.String(), MTU: gw.MTU})
	}
	j.gateways.Port = port
	var err error
	if j.added, err = j.gateways.Ensure(ctx, j.ForceAddress, want...); err != nil {
		return j.WithoutIPv6(j.gateways.Name, config(err))
	}
	if len(j.added) > 0 && !br.Ours {
		if err := bridge.PinMAC(ctx, j.Node, br); err != nil {
			return err
		}
	}
	if len(j.added) > 0 {
		if err := addr.Live(ctx, j.Node, j.added...); err != nil {
			return err
		}
	}
	return route.Forward(ctx, j.Node, families...)
}

// withdraw takes back the gateways that this ADD added and no other pod uses.
func (j *job) withdraw(ctx context.Context) error {
	if len(j.added) == 0 {
		return nil
	}
	return j.gateways.Withdraw(ctx, j.added...)
}

func gatewaysOf(res *cni.Result) (want []bridge.Gateway, families []inet.Family) {
	for _, ip := range res.IPs {
		want = append(want, bridge.Gateway{Addr: ip.Gateway, Subnet: ip.Address.Masked()})
	}
	return want, attach.Families(res.IPs)
}

func (j *job) gatewaysOn(index int, name string) bridge.Gateways {
	g := bridge.Gateways{NS: j.Node, Index: index, Name: name, Held: func(subnet netip.Prefix) bool { return j.Leased(context.Background(), subnet) }}
	for _, r := range slices.Concat(j.Pools...) {
		if a := j.GatewayOf(r); a.IsValid() && j.IsGateway {
			g.Configured = append(g.Configured, bridge.Gateway{Addr: a, Subnet: r.Subnet})
		}
	}
	return g
}

// retireGateways removes what is on the bridge for gateways that serve no pod and no configured range any more. index is
// that of the bridge, 0 if only its name is known. A configuration whose ranges were not read or not handed down says nothing of what is configured.
func (j *job) retireGateways(ctx context.Context, index int, quick bool) error {
	if j.Partial || j.HostLocal() && len(j.Pools) == 0 {
		return nil
	}
	if index == 0 || j.VLAN != 0 {
		l, err := j.gatewayDevice(j.Bridge)
		if err != nil || l.Kind != "bridge" && j.VLAN == 0 {
			return rtnl.Except(err, fs.ErrNotExist)
		}
		index = l.Index
	}
	g := j.gatewaysOn(index, j.Bridge)
	g.Quick = quick
	return rtnl.Except(g.Retire(ctx), fs.ErrNotExist)
}

// gatewayDevice is the bridge, or the device of its VLAN.
func (j *job) gatewayDevice(name string) (rtnl.Link, error) {
	c, err := rtnl.Open(j.Node)
	if err != nil {
		return rtnl.Link{}, err
	}
	if j.VLAN != 0 {
		name = bridge.VLANGatewayName(name, j.port.VLAN)
	}
	return c.LinkByName(name)
}

func (j *job) checkGateways(ctx context.Context, br bridge.State) error {
	if !j.IsGateway || j.IPAM == nil {
		return nil
	}
	res := &cni.Result{IPs: j.PrevIPs()}
	if err := j.Complete(res); err != nil {
		return err
	}
	want, families := gatewaysOf(res)
	l, err := j.gatewayDevice(br.Name)
	if err != nil {
		return err
	}
	return errors.Join(j.gatewaysOn(l.Index, l.Name).Check(ctx, want...), route.CheckForward(ctx, j.Node, families...))
}

// checkWidth refuses a bridge that is too narrow for the IPv6 gateways of this network and not ours to widen.
func (j *job) checkWidth(br bridge.State) error {
	for _, r := range slices.Concat(j.Pools...) {
		if j.IsGateway && j.VLAN == 0 && r.Subnet.Addr().Is6() {
			return config(br.CheckWidth())
		}
	}
	return nil
}

// widen lets a device of the bridge bear the gateways if ports of another network made it too narrow for IPv6.
func (j *job) widen(ctx context.Context, br bridge.State, families []inet.Family) error {
	if !slices.Contains(families, inet.IPv6) {
		return nil
	}
	return config(bridge.Widen(ctx, j.Node, br, j.MTU))
}
