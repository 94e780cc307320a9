package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
)

// checkGateway refuses a gateway that no host can have, or that the pod itself has.
func (j *job) checkGateway(ip cni.IP) (err error) {
	switch {
	case !ip.Gateway.IsValid():
		return nil
	case ip.Gateway.Is4() != ip.Address.Addr().Is4():
		err = fmt.Errorf("%s is of the other family", ip.Gateway)
	case ip.Gateway == ip.Address.Addr() && j.IsGateway:
		err = fmt.Errorf("%s is the pod's own address", ip.Gateway)
	default:
		err = ipam.CheckHost(ip.Gateway, ip.Address)
	}
	if err != nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "ipam": the gateway that plugin %q gave with %s cannot be used: %w`, j.conf.IPAM.Type, ip.Address, err)
	}
	return nil
}

// checkNextHops refuses a next hop that no host can have, and warns of one that is on no wire that is known of.
func (j *job) checkNextHops(res *cni.Result) error {
	for _, r := range res.Routes {
		if !r.GW.IsValid() {
			continue
		}
		if err := ipam.CheckHost(r.GW, netip.Prefix{}); err != nil {
			return cni.Errorf(cni.ErrConfig, `netconf: key "ipam": the route to %s that plugin %q gave: next hop %w`, r.Dst, j.conf.IPAM.Type, err)
		}
		if !j.onWire(r.GW, res) {
			j.Warn(`netconf: key "ipam": the route to %s leads to %s, which is in no subnet of this network and no gateway of it; it works only if somebody on bridge %s answers for that address`, r.Dst, r.GW, j.Bridge)
		}
	}
	return nil
}

func (j *job) onWire(gw netip.Addr, res *cni.Result) bool {
	if gw.Is6() && gw.IsLinkLocalUnicast() {
		return true
	}
	for _, ip := range res.IPs {
		if ip.Gateway == gw || ip.Address.Contains(gw) {
			return true
		}
	}
	for _, pool := range j.pools {
		for _, r := range pool {
			if r.Gateway == gw || r.Subnet.Contains(gw) {
				return true
			}
		}
	}
	return false
}

// ensureBridge makes the bridge if it is not there, and only if it can get the gateways that are configured.
func (j *job) ensureBridge(ctx context.Context) (bridge.State, error) {
	want := j.wanted(j.Network)
	want.Existing = true
	br, err := bridge.Ensure(ctx, j.host, want)
	if !errors.Is(err, fs.ErrNotExist) {
		return br, err
	}
	if unfit := j.unfit(ctx); unfit != nil {
		if br, err = bridge.Ensure(ctx, j.host, want); errors.Is(err, fs.ErrNotExist) { // else another ADD has made it, with what is in the way
			err = unfit
		}
		return br, err
	}
	want.Existing = false
	return bridge.Ensure(ctx, j.host, want)
}

// unfit says why a bridge that is not there yet could not get the gateways.
func (j *job) unfit(ctx context.Context) error {
	g := j.gatewaysOn(0, j.Bridge)
	if err := g.Fit(ctx, g.Configured...); err != nil {
		return conflict(err)
	}
	const key = "net/ipv6/conf/default/disable_ipv6" // a new link begins with it
	if v, err := sysctl.Get(j.host, key); err == nil && v == "1" && slices.ContainsFunc(g.Configured, func(g bridge.Gateway) bool { return g.Addr.Is6() }) {
		return cni.Errorf(cni.ErrConfig, "IPv6 is switched off on %s, as on every new link: set sysctl %s to 0, or remove the IPv6 range", j.Bridge, key)
	}
	return nil
}

func conflict(err error) error {
	if errors.Is(err, bridge.ErrConflict) {
		err = cni.Errorf(cni.ErrConfig, `netconf: keys "bridge" and "ipam": %w`, err)
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
		gw, err := bridge.VLANGateway(ctx, j.host, br, j.port.VLAN, link.NetworkAlias(j.Network), j.PreserveDefaultVLAN)
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
		return j.withoutIPv6(conflict(err))
	}
	if len(j.added) > 0 && !br.Ours {
		if err := bridge.PinMAC(ctx, j.host, br); err != nil {
			return err
		}
	}
	if len(j.added) > 0 {
		if err := addr.Live(ctx, j.host, j.added...); err != nil {
			return err
		}
	}
	return route.Forward(ctx, j.host, families...)
}

// withoutIPv6 names the parameter by which IPv6 is switched off on the device of the gateways.
func (j *job) withoutIPv6(err error) error {
	key := "net/ipv6/conf/" + j.gateways.Name + "/disable_ipv6"
	if v, e := sysctl.Get(j.host, key); e != nil || v != "1" {
		return err
	}
	return cni.Errorf(cni.ErrConfig, "IPv6 is switched off on %s: set sysctl %s to 0, or remove the IPv6 range: %w", j.gateways.Name, key, err)
}

// withdraw takes back the gateways that this ADD added and no other pod uses.
func (j *job) withdraw(ctx context.Context) error {
	if len(j.added) == 0 {
		return nil
	}
	return j.gateways.Withdraw(ctx, j.added...)
}

func gatewaysOf(res *cni.Result) (want []bridge.Gateway, families []inet.Family) {
	seen := map[inet.Family]bool{}
	for _, ip := range res.IPs {
		want = append(want, bridge.Gateway{Addr: ip.Gateway, Subnet: ip.Address.Masked()})
		f := inet.IPv6
		if ip.Address.Addr().Is4() {
			f = inet.IPv4
		}
		if !seen[f] {
			seen[f] = true
			families = append(families, f)
		}
	}
	return want, families
}

func (j *job) gatewaysOn(index int, name string) bridge.Gateways {
	g := bridge.Gateways{NS: j.host, Index: index, Name: name, Held: j.leased}
	for _, pool := range j.pools {
		for _, r := range pool {
			if a := j.gateway(r); a.IsValid() && j.IsGateway {
				g.Configured = append(g.Configured, bridge.Gateway{Addr: a, Subnet: r.Subnet})
			}
		}
	}
	return g
}

// leased reports whether an address of the subnet is leased to a pod of this network, or may be.
func (j *job) leased(subnet netip.Prefix) bool {
	if j.conf.IPAM.Type != hostLocal {
		return false
	}
	held, err := ipam.Dir{DataDir: j.conf.IPAM.DataDir, Network: j.Network}.Leases(context.Background())
	return err != nil || slices.ContainsFunc(held, func(l ipam.Held) bool { return subnet.Contains(l.Addr) })
}

// retireGateways removes what is on the bridge for gateways that serve no pod and no configured range any more. index is
// that of the bridge, 0 if only its name is known. A configuration whose ranges were not read or not handed down says nothing of what is configured.
func (j *job) retireGateways(ctx context.Context, index int, quick bool) error {
	if j.least || j.conf.IPAM.Type == hostLocal && len(j.pools) == 0 {
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
	c, err := rtnl.Open(j.host)
	if err != nil {
		return rtnl.Link{}, err
	}
	if j.VLAN != 0 {
		name = bridge.VLANGatewayName(name, j.port.VLAN)
	}
	return c.LinkByName(name)
}

func (j *job) checkGateways(ctx context.Context, br bridge.State) error {
	if !j.IsGateway || j.ipam == nil {
		return nil
	}
	res := &cni.Result{IPs: j.PrevIPs()}
	if err := j.complete(res); err != nil {
		return err
	}
	want, families := gatewaysOf(res)
	l, err := j.gatewayDevice(br.Name)
	if err != nil {
		return err
	}
	return errors.Join(j.gatewaysOn(l.Index, l.Name).Check(ctx, want...), route.CheckForward(ctx, j.host, families...))
}
