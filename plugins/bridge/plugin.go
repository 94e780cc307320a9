// Package bridge is the CNI plugin "bridge": it attaches a container to a Linux bridge by a veth pair.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/bridge.md.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/spoof"
	"github.com/cniblocks/cniblocks/veth"
)

// Plugin is the bridge plugin. The zero value is ready to use.
type Plugin struct {
	// Remove deletes the interface of an index and returns when its name and addresses are free. Nil waits until the kernel
	// has freed its memory too, which takes some 20 ms more.
	Remove func(ctx context.Context, ns *netns.NS, index int) error
}

var _ cni.Plugin = Plugin{}

// job is one request under way.
type job struct {
	*attach.Pod
	*conf
	gateways bridge.Gateways // of the bridge or of the device of its VLAN, once that is known
	added    []netip.Prefix  // by this ADD, to the gateways
}

// begin validates all that can be validated before anything changes.
func (p Plugin) begin(r *cni.Request) (*job, error) {
	j, err := read(r)
	if err != nil {
		return nil, err
	}
	j.SetDelete(p.Remove)
	return j, j.Open()
}

func read(r *cni.Request) (*job, error) {
	j := &job{conf: &conf{Bridge: defaultBridge}}
	var err error
	if j.Pod, err = attach.Read(r, j.conf); err != nil {
		return nil, err
	}
	if j.IsGateway = j.IsGateway || j.IsDefaultGateway; j.IsGateway {
		j.Gateway.Why = `key "isGateway" is true`
	}
	j.Gateway.Default, j.Gateway.Wire = j.IsDefaultGateway, "bridge "+j.Bridge
	j.Reference = attach.Reference{Made: j.isPort, Remove: func(ctx context.Context, containerID, ifName string) error {
		return foreign.RemoveGuard(ctx, j.Node, foreign.Attachment{Network: j.Network, ContainerID: containerID, IfName: ifName})
	}}
	return j, nil
}

// isPort reports whether a link is a port of our bridge.
func (j *job) isPort(ctx context.Context, l link.Link) (bool, error) {
	br, err := bridge.Get(ctx, j.Node, j.Bridge)
	return err == nil && l.Master == br.Index, rtnl.Except(err, bridge.ErrNotBridge)
}

// Add attaches the container. It is a transaction: if a step fails the steps before it are taken back, save what belongs
// to the network: the bridge, its addresses, the SNAT rule, forwarding.
func (p Plugin) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	j, err := p.begin(r)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	if err := j.OpenMasq(ctx); err != nil {
		return nil, err
	}
	defer j.OnError(ctx, &err)
	br, err := bridge.EnsureFit(ctx, j.Node, j.wanted(), j.unfit)
	if err = j.checkFiltering(br, err); err != nil {
		return nil, err
	}
	j.Undo(j.withdraw) // comes after the pair is gone
	if err := j.checkWidth(br); err != nil {
		return nil, err
	}
	pair, err := j.attach(ctx, br)
	if err != nil {
		return nil, err
	}
	res := &cni.Result{Interfaces: []cni.Interface{
		{Name: br.Name, MAC: br.MAC.String(), MTU: br.MTU},
		{Name: pair.Host.Name, MAC: pair.Host.MAC.String(), MTU: pair.Host.MTU},
		{Name: pair.Pod.Name, MTU: cmp.Or(j.MTU, pair.Host.MTU), Sandbox: r.NetNS},
	}}
	if err := j.Addresses(ctx, res, 2); err != nil {
		return nil, err
	}
	if err := j.ensureGateways(ctx, br, pair.Host.Index, res); err != nil {
		return nil, err
	}
	mac := j.ChooseMAC(res.IPs, j.MACSpoofChk)
	if err := j.guard(ctx, pair.Host.Name, mac); err != nil {
		return nil, err
	}
	mac, err = j.Configure(ctx, pair.Pod.Index, attach.Setup{MAC: mac, IPs: res.IPs, Routes: attach.Routes(res.Routes, res.IPs),
		Down: j.DisableContainerInterface, DAD: j.EnableDAD})
	if err != nil {
		return nil, err
	}
	res.Interfaces[2].MAC = mac.String()
	if err := j.Masquerade(ctx, res.IPs); err != nil {
		return nil, err
	}
	if br.New && !j.IPMasq.Any() {
		if err := j.WarnConflicts(ctx); err != nil {
			return nil, err
		}
	}
	if len(res.IPs) > 0 {
		j.warnShared(ctx, br, res.IPs)
	}
	if err := addr.Live(ctx, j.NS, attach.Prefixes(res.IPs)...); err != nil {
		return nil, err
	}
	if !j.DisableContainerInterface {
		err = j.Carrier(ctx, pair.Host, br.Index)
	}
	return res, err
}

// checkFiltering names the key of VLANs where the kernel refused, or passed over, the wish for a bridge that filters them.
func (j *job) checkFiltering(br bridge.State, err error) error {
	if !j.wanted().VLANFiltering || err == nil && br.VLANFiltering || err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return config(err)
	}
	key := "vlan"
	if j.VLAN == 0 {
		key = "vlanTrunk"
	}
	return cni.Errorf(cni.ErrConfig, "netconf: key %q: this kernel has no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING); use one that has, or remove the key", key)
}

// attach makes the pair, and its host end a port.
func (j *job) attach(ctx context.Context, br bridge.State) (veth.Pair, error) {
	pair := j.Pair()
	var err error
	if pair.Host.MTU, err = bridge.PortMTU(ctx, j.Node, br, j.MTU); err != nil {
		return pair, err
	}
	pair.Hairpin, pair.Isolated = j.HairpinMode, j.PortIsolation
	if pair, err = j.Veth(ctx, pair, br.Index); err != nil {
		return pair, err
	}
	return pair, bridge.SetPort(ctx, j.Node, pair.Host.Index, j.port)
}

// guard keeps frames with another source address than the pod's from entering the bridge (key macspoofchk). It stands
// before the pod's end is up.
func (j *job) guard(ctx context.Context, port string, mac inet.MAC) error {
	if !j.MACSpoofChk {
		return nil
	}
	j.Undo(func(ctx context.Context) error { return spoof.Revoke(ctx, j.Node, port) })
	return spoof.Allow(ctx, j.Node, spoof.Port{Name: port, MAC: mac, Owner: j.Alias})
}

func (j *job) checkGuard(ctx context.Context, e attach.Ends) error {
	if !j.MACSpoofChk || e.Host.Index == 0 || e.Pod.Index == 0 {
		return nil
	}
	port := spoof.Port{Name: e.Host.Name, MAC: e.Pod.MAC, Owner: j.Alias}
	if !e.Reference {
		return spoof.Check(ctx, j.Node, port)
	}
	ok, err := foreign.HasGuard(ctx, j.Node, foreign.Attachment{Network: j.Network, ContainerID: j.ContainerID, IfName: j.IfName}, port.Name, port.MAC)
	if err == nil && !ok {
		err = fmt.Errorf("the spoof check of %s is missing or wrong", e.Host.Name)
	}
	return err
}

// warnShared names another network that hands out the same addresses on this bridge, in the same VLAN of it.
func (j *job) warnShared(ctx context.Context, br bridge.State, ips []cni.IP) {
	j.WarnShared(ctx, "bridge "+br.Name, ips, func(l link.Link) bool {
		if l.Master != br.Index || !br.VLANFiltering {
			return l.Master == br.Index
		}
		in, err := bridge.InVLAN(ctx, j.Node, l.Index, cmp.Or(j.port.VLAN, 1))
		return err != nil || in
	})
}

// Del takes the attachment away. It needs neither the namespace nor prevResult nor the ranges, and goes on after an
// error: whatever can go goes.
func (p Plugin) Del(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.Close()
	was, ours, err := j.Remove(ctx)
	if err = errors.Join(err, spoof.Revoke(ctx, j.Node, j.Host)); err == nil {
		err = j.retireGateways(ctx, was.Master, true)
	}
	if !ours {
		err = errors.Join(err, j.RemoveReference(ctx))
	}
	return err
}

// Check compares every object that Add made with what it should be, and names every difference: first those by which
// packets are lost. What chained plugins may change is not looked at: the MTU, queues, sysctls and promiscuity of the
// pod's end.
func (p Plugin) Check(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.Close()
	if err := r.NeedPrev(); err != nil {
		return err
	}
	want := j.wanted()
	br, err := bridge.Check(ctx, j.Node, bridge.Bridge{Name: want.Name, VLANFiltering: want.VLANFiltering})
	ends, missing := j.Find(ctx)
	found := []error{err, missing, j.CheckEnds(ends, j.DisableContainerInterface), j.checkPort(ctx, ends, br)}
	if ends.Pod.Index != 0 {
		found = append(found, j.CheckAddresses(ctx))
	}
	if br.Index != 0 {
		found = append(found, j.checkGateways(ctx, br))
	}
	found = append(found, j.CheckLease(ctx), j.CheckMasq(ctx, ends), j.checkGuard(ctx, ends), j.checkProperties(ends, br))
	return attach.Wrong(errors.Join(found...))
}

func (j *job) checkPort(ctx context.Context, e attach.Ends, br bridge.State) error {
	switch {
	case e.Host.Index == 0 || br.Index == 0:
		return nil
	case e.Host.Master != br.Index:
		return fmt.Errorf("%s is not a port of bridge %s", e.Host.Name, br.Name)
	}
	return bridge.CheckPort(ctx, j.Node, e.Host.Index, j.port)
}

// checkProperties finds what else differs; of the MTU see [bridge.PortMTU].
func (j *job) checkProperties(e attach.Ends, br bridge.State) error {
	var f attach.Findings
	h := e.Host
	f.Add(h.Index != 0 && h.Isolated != j.PortIsolation, "%s has port isolation %v; want %v", h.Name, h.Isolated, j.PortIsolation)
	f.Add(h.Index != 0 && h.Hairpin != j.HairpinMode, "%s has hairpin mode %v; want %v", h.Name, h.Hairpin, j.HairpinMode)
	f.Add(br.Index != 0 && j.PromiscMode && !br.Promisc, "bridge %s is not in promiscuous mode", br.Name)
	return errors.Join(append(f, j.CheckProperties(e, j.MTU < bridge.MinMTU6 && h.MTU >= bridge.MinMTU6))...)
}

// Status fails if an ADD could not succeed now: no usable SNAT backend, a bridge of another kind in the way, an IPAM
// plugin that is missing or says so itself.
func (p Plugin) Status(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return cni.Unavailable(err)
	}
	defer j.Close()
	br, err := bridge.Get(ctx, j.Node, j.Bridge)
	if err == nil {
		j.warnShared(ctx, br, nil)
		err = j.checkWidth(br)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cni.Unavailable(err)
	}
	return j.Pod.Status(ctx)
}

// GC takes away every attachment of this network that the runtime no longer has: devices first, then what the node keeps
// for them, then their addresses. It goes on after an error.
func (p Plugin) GC(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.Close()
	guards := func(ctx context.Context) error {
		return spoof.Retain(ctx, j.Node, link.AliasPrefix(r.Network), j.Aliases())
	}
	return errors.Join(j.Collect(ctx, guards), j.retireGateways(ctx, 0, false))
}
