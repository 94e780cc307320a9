// Package bridge is the CNI plugin "bridge": it attaches a container to a Linux bridge by a veth pair.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/bridge.md.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/internal/base/wait"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// Plugin is the bridge plugin. The zero value is ready to use.
type Plugin struct {
	// Remove deletes the interface of an index and returns when its name and addresses are free. Nil waits until the kernel
	// has freed its memory too, which takes some 20 ms more.
	Remove func(ctx context.Context, ns *netns.NS, index int) error
}

var _ cni.Plugin = Plugin{}

// job is one request under way. It is large since each step of ADD, CHECK, DEL and GC is a method.
type job struct {
	*cni.Request
	*conf
	host, pod *netns.NS // pod is nil where there is none
	ipam      cni.Plugin
	alias     string
	gateways  bridge.Gateways // of the bridge or of the device of its VLAN, once that is known
	added     []netip.Prefix  // by this ADD, to the gateways
	remove    func(ctx context.Context, ns *netns.NS, index int) error
}

// begin validates all that can be validated before anything changes.
func (p Plugin) begin(r *cni.Request) (*job, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	j := &job{Request: r, conf: c, alias: link.Alias(r.Network, r.ContainerID, r.IfName), remove: p.Remove}
	if j.remove == nil {
		j.remove = veth.DeleteIndex
	}
	if j.ipam, err = r.IPAM(); err != nil {
		return nil, err
	}
	j.host, j.pod, err = r.Namespaces()
	return j, err
}

func (j *job) close() {
	j.host.Close()
	if j.pod != nil {
		j.pod.Close()
	}
}

// Add attaches the container. It is a transaction: if a step fails the steps before it are taken back, save what belongs
// to the network: the bridge, its addresses, the SNAT rule, forwarding.
func (p Plugin) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	j, err := p.begin(r)
	if err != nil {
		return nil, err
	}
	defer j.close()
	rule, err := j.openSNAT(ctx)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.OnError(ctx, &err)

	br, err := j.ensureBridge(ctx)
	err = j.checkFiltering(br, err)
	if err != nil {
		return nil, config(err, bridge.ErrNotBridge)
	}
	u.Push(j.withdraw) // comes after the pair is gone
	if err := j.checkWidth(br); err != nil {
		return nil, err
	}
	pair, err := j.attach(ctx, br, &u)
	if err != nil {
		return nil, err
	}
	res := &cni.Result{Interfaces: []cni.Interface{
		{Name: br.Name, MAC: br.MAC.String(), MTU: br.MTU},
		{Name: pair.Host.Name, MAC: pair.Host.MAC.String(), MTU: pair.Host.MTU},
		{Name: pair.Pod.Name, MTU: cmp.Or(j.MTU, pair.Host.MTU), Sandbox: r.NetNS},
	}}
	if err := j.address(ctx, res, &u); err != nil {
		return nil, err
	}
	if err := j.ensureGateways(ctx, br, pair.Host.Index, res); err != nil {
		return nil, err
	}
	mac := j.podMAC(res)
	if err := j.guard(ctx, pair.Host.Name, mac, &u); err != nil {
		return nil, err
	}
	if mac, err = j.configure(ctx, pair, res, mac); err != nil {
		return nil, err
	}
	res.Interfaces[2].MAC = mac.String()
	if err := j.ensureSNAT(ctx, rule, res, &u); err != nil {
		return nil, err
	}
	if br.New && !j.IPMasq.Any() {
		if err := j.warnConflicts(ctx); err != nil {
			return nil, err
		}
	}
	if len(res.IPs) > 0 {
		j.warnShared(br, res.IPs)
	}
	if j.DNS != nil {
		res.DNS = *j.DNS
	}
	if err := addr.Live(ctx, j.pod, prefixes(res.IPs)...); err != nil {
		return nil, err
	}
	if !j.DisableContainerInterface {
		err = carrier(ctx, j.host, pair.Host, br)
	}
	return res, err
}

// checkFiltering names the key of VLANs where the kernel refused, or passed over, the wish for a bridge that filters them.
func (j *job) checkFiltering(br bridge.State, err error) error {
	if !j.wanted(j.Network).VLANFiltering || err == nil && br.VLANFiltering || err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	key := "vlan"
	if j.VLAN == 0 {
		key = "vlanTrunk"
	}
	return cni.Errorf(cni.ErrConfig, "netconf: key %q: this kernel has no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING); use one that has, or remove the key", key)
}

// attach makes the pair: the exclusive step that guards all others.
func (j *job) attach(ctx context.Context, br bridge.State, u *undo.Stack) (veth.Pair, error) {
	mtu, err := j.hostMTU(br)
	if err != nil {
		return veth.Pair{}, err
	}
	pair, err := veth.CreateOn(ctx, veth.Pair{
		Host:  veth.End{NS: j.host, Name: link.HostName(j.Network, j.ContainerID, j.IfName), MTU: mtu},
		Pod:   veth.End{NS: j.pod, Name: j.IfName, MTU: j.MTU, MAC: j.mac},
		Alias: j.alias, Hairpin: j.HairpinMode, Isolated: j.PortIsolation,
	}, br.Index)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return pair, cni.Errorf(cni.ErrConfig, "CNI_IFNAME=%s of container %s: %w", j.IfName, j.ContainerID, err)
		}
		return pair, err
	}
	u.Push(func(ctx context.Context) error { return j.detach(ctx) })
	return pair, bridge.SetPort(ctx, j.host, pair.Host.Index, j.port)
}

// detach removes the pair; one that is gone is fine.
func (j *job) detach(ctx context.Context) error {
	c, err := rtnl.Open(j.host)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(link.HostName(j.Network, j.ContainerID, j.IfName))
	if err == nil && l.Kind == "veth" { // the name is a pair's: whatever else bears it is not the attachment
		err = j.remove(ctx, j.host, l.Index)
	}
	return rtnl.Except(err, fs.ErrNotExist)
}

// address asks the IPAM plugin and completes its answer with gateways and default routes.
func (j *job) address(ctx context.Context, res *cni.Result, u *undo.Stack) error {
	if j.ipam == nil {
		return nil
	}
	release := func(ctx context.Context) error {
		// The device goes before its address returns to the pool.
		return errors.Join(j.detach(ctx), j.ipam.Del(ctx, j.Request))
	}
	got, err := j.ipam.Add(ctx, j.Request)
	if err != nil {
		back := release(context.WithoutCancel(ctx))
		var was, is syscall.Errno
		if errors.As(err, &was) && errors.As(back, &is) && was == is {
			back = nil // the same cause
		}
		return errors.Join(err, back)
	}
	u.Push(release)
	if len(got.IPs) == 0 {
		return cni.Errorf(cni.ErrConfig, "IPAM plugin %q gave no address", j.conf.IPAM.Type)
	}
	res.IPs, res.Routes, res.DNS = got.IPs, got.Routes, got.DNS
	return j.complete(res)
}

// complete fills in what follows from the addresses.
func (j *job) complete(res *cni.Result) error {
	seen := map[bool]bool{} // families, by "is IPv4", that have their default route
	for i := range res.IPs {
		ip := &res.IPs[i]
		ip.Interface = 2
		if err := j.checkMTU(ip.Address.Addr()); err != nil {
			return err
		}
		if !ip.Gateway.IsValid() && j.IsGateway {
			ip.Gateway = firstHost(ip.Address)
			if ip.Gateway == ip.Address.Addr() || !ip.Address.Contains(ip.Gateway) {
				return cni.Errorf(cni.ErrConfig, `netconf: key "isGateway" is true, and %s leaves no address for a gateway; state "gateway" in the range, or use a larger subnet`, ip.Address)
			}
		}
		if err := j.checkGateway(*ip); err != nil {
			return err
		}
		is4 := ip.Address.Addr().Is4()
		if !j.IsDefaultGateway || seen[is4] {
			continue
		}
		seen[is4] = true
		if !hasDefault(res.Routes, is4) {
			res.Routes = append(res.Routes, cni.Route{Dst: defaultDst(is4), GW: ip.Gateway})
		}
	}
	return j.checkNextHops(res)
}

func firstHost(p netip.Prefix) netip.Addr {
	base := p.Masked().Addr()
	if base.BitLen()-p.Bits() == 1 && base != p.Addr() { // /31 and /127: the other one
		return base
	}
	return base.Next()
}

func defaultDst(is4 bool) netip.Prefix {
	if is4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func hasDefault(routes []cni.Route, is4 bool) bool {
	for _, r := range routes {
		if r.GW.IsValid() && r.Dst == defaultDst(is4) {
			return true
		}
	}
	return false
}

// carrier waits until packets can pass. Asking for a link makes the kernel see at once that it has a carrier: the host end
// gets its queue, without which a first packet is now and then lost for a second, and a new bridge its link-local address.
//
// With the carrier the port gets a route for IPv6 multicast, which the bridge's makes needless. It goes: the kernel walks all
// of them with every link that comes and goes, on a node of 1000 pods for a fifth of the time that a removal takes.
func carrier(ctx context.Context, host *netns.NS, end veth.End, br bridge.State) error {
	c, err := rtnl.Open(host)
	if err != nil {
		return err
	}
	const patience, longest = 10 * time.Second, 50 * time.Millisecond
	var port rtnl.Link
	multicast := rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), Link: end.Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_MULTICAST}
	err = wait.Until(ctx, patience, longest, func() (bool, error) {
		err := c.Do(rtnl.GetLinkIndex(end.Index, func(l rtnl.Link) { port = l }), rtnl.DelRoute(multicast),
			rtnl.GetLinkIndex(br.Index, func(rtnl.Link) {}))
		return port.OperState == rtnl.OperUp, rtnl.Except(err, unix.ESRCH, unix.EOPNOTSUPP, unix.EAFNOSUPPORT)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return cni.Errorf(cni.ErrIO, "%s has no carrier: operational state %d: %w", end.Name, port.OperState, err)
	}
	return err
}

// config makes an error one of the configuration if it is the target.
func config(err, target error) error {
	if errors.Is(err, target) {
		return cni.Errorf(cni.ErrConfig, "netconf: key \"bridge\": %w", err)
	}
	return err
}
