//go:build linux

package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
)

// Device is a main plugin whose interface has no end on the node: it stands on a device, or by itself. It bears the alias of the
// attachment, and goes with the container's namespace: on the node there are the leases alone.
type Device struct {
	New     func() DeviceConf // an empty netconf
	Chained bool              // without an IPAM plugin the interface gets the addresses and routes of prevResult
}

// DeviceConf is the netconf of a [Device]: a struct that embeds [Common] or [Sub].
type DeviceConf interface {
	Netconf
	// Kind is what the interface is.
	Kind() link.Kind
	// Prepare adds to the spec of the interface what the node and the container decide, and fails where there can be none. It
	// changes nothing. p.NS is nil for STATUS.
	Prepare(ctx context.Context, p *Pod, s *link.Spec) error
	// Why is the key that explains why the kernel refused to make the interface, with the remedy; "" if none does.
	Why(err error) string
	// OnWire reports, after Prepare, whether the interface is on a wire with other stations, which may have its addresses.
	OnWire() bool
}

// Prepare is for interfaces that stand by themselves.
func (*Common) Prepare(context.Context, *Pod, *link.Spec) error { return nil }

// Why is for plugins that know of no reason.
func (*Common) Why(error) string { return "" }

// OnWire is for interfaces that stand by themselves.
func (*Common) OnWire() bool { return false }

// OwnMAC is the key for the MAC address where neither the runtime nor the user says one by the common keys.
type OwnMAC struct {
	MAC string `json:"mac"`
}

// Choose gives the spec the address of the key, unless it has one.
func (k OwnMAC) Choose(s *link.Spec) error {
	if k.MAC == "" {
		return nil
	}
	mac, err := inet.ParseMAC(k.MAC)
	if err != nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "mac": %w`, err)
	}
	if s.MAC == (inet.MAC{}) {
		s.MAC = mac
	}
	return nil
}

// Sub is [Common] for interfaces that stand on a device.
type Sub struct {
	Common
	Master          string `json:"master"`          // "": the device of the default route
	LinkInContainer bool   `json:"linkInContainer"` // it is in the container

	carrier bool // of the device
}

// OnWire reports whether the device has a carrier.
func (c *Sub) OnWire() bool { return c.carrier }

// Prepare finds the device. For CHECK that of the default route is not looked for: it may be another one by now.
func (c *Sub) Prepare(ctx context.Context, p *Pod, s *link.Spec) (err error) {
	ns, where := p.Node, "the node"
	if c.LinkInContainer {
		ns, where = p.NS, "the container"
	}
	if ns == nil || c.Master == "" && p.Verb == cni.CHECK {
		return nil
	}
	var lower link.Link
	why := fmt.Sprintf(`key "master" is %q, and %s has no interface of that name`, c.Master, where)
	if c.Master != "" {
		lower, err = link.Get(ctx, ns, c.Master)
	} else {
		why = fmt.Sprintf(`key "master" is missing, and %s has no default route whose interface it would be`, where)
		if lower.Index, err = route.DefaultLink(ctx, ns); err == nil {
			lower, err = link.At(ctx, ns, lower.Index)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cni.Errorf(cni.ErrConfig, `netconf: %s: want one that "ip link" lists there: %w`, why, err)
	case err != nil:
		return err
	case c.MTU > lower.MTU:
		return cni.Errorf(cni.ErrConfig, `netconf: key "mtu" is %d, and %s, which is to carry the packets, has %d: want at most that, or 0 for the same`, c.MTU, lower.Name, lower.MTU)
	}
	s.Lower, c.carrier = link.Lower{NS: ns, Index: lower.Index}, lower.Carrier
	p.Gateway.Wire = "the wire of " + lower.Name
	if !lower.Up {
		p.Warn(`netconf: key "master": %s of %s is down: until it is up no packet passes`, lower.Name, where)
	}
	return nil
}

// begin is [Begin], with the spec of the interface that is to be, or is.
func (d Device) begin(r *cni.Request) (*Pod, DeviceConf, error) {
	c := d.New()
	p, err := Begin(r, c)
	if err != nil {
		return nil, nil, err
	}
	p.device = &link.Spec{Name: r.IfName, Kind: c.Kind(), MAC: p.MAC, MTU: p.conf.MTU, Alias: p.Alias}
	return p, c, nil
}

// Add makes the interface. It is a transaction: if a step fails the steps before it are taken back.
func (d Device) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	p, c, err := d.begin(r)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := c.Prepare(ctx, p, p.device); err != nil {
		return nil, err
	}
	defer p.OnError(ctx, &err)
	made, err := link.Create(ctx, p.NS, *p.device)
	if err != nil {
		return nil, p.refused(c, err)
	}
	p.Undo(p.detach)
	res := &cni.Result{Interfaces: []cni.Interface{{Name: made.Name, MAC: made.MAC.String(), MTU: made.MTU, Sandbox: r.NetNS}}}
	if d.Chained && p.IPAM == nil && r.Prev != nil {
		res.IPs, res.Routes, res.DNS = slices.Clone(r.Prev.IPs), r.Prev.Routes, r.Prev.DNS
		for i := range res.IPs {
			res.IPs[i].Interface = 0
		}
	}
	if err := p.Addresses(ctx, res, 0); err != nil {
		return nil, err
	}
	_, err = p.Configure(ctx, made.Index, Setup{IPs: res.IPs, Routes: Routes(res.Routes, res.IPs), DAD: c.OnWire(), Tell: c.OnWire()})
	return res, err
}

// refused explains an error of [link.Create].
func (p *Pod) refused(c DeviceConf, err error) error {
	switch why := c.Why(err); {
	case why != "":
		return cni.Errorf(cni.ErrConfig, "netconf: %s: %w", why, err)
	case errors.Is(err, fs.ErrExist):
		return cni.Errorf(cni.ErrConfig, "CNI_IFNAME=%s of container %s: %w", p.IfName, p.ContainerID, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return cni.Errorf(cni.ErrIO, "the kernel makes no interfaces of kind %q; install or load its module: %w", p.device.Kind.Type(), err)
	}
	return err
}

// Check compares the interface with what Add made, and names every difference.
func (d Device) Check(ctx context.Context, r *cni.Request) error {
	p, c, err := d.begin(r)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := r.NeedPrev(); err != nil {
		return err
	}
	var f Findings
	l, err := link.Get(ctx, p.NS, r.IfName)
	if err != nil {
		f.Add(true, "interface %s in %s: %w", r.IfName, r.NetNS, err)
		return Wrong(errors.Join(append(f, p.CheckLease(ctx))...))
	}
	lower := c.Prepare(ctx, p, p.device)
	want := *p.device
	if !l.Is(want.Kind) {
		have := l.Kind
		if l.Details != nil {
			have = l.Details.String()
		}
		f.Add(true, "interface %s in %s is %q; want %q", r.IfName, r.NetNS, have, want.Kind)
	}
	f.Add(want.Lower.Index != 0 && l.Lower != want.Lower.Index, "interface %s in %s stands on the device of index %d; want %d", r.IfName, r.NetNS, l.Lower, want.Lower.Index)
	f.Add(want.Master != 0 && l.Master != want.Master, "interface %s in %s is a port of the device of index %d; want %d", r.IfName, r.NetNS, l.Master, want.Master)
	f.Add(!l.Up, "interface %s in %s is down", r.IfName, r.NetNS)
	f.Add(l.Alias != "" && l.Alias != p.Alias, "interface %s in %s has the alias %q; want %q", r.IfName, r.NetNS, l.Alias, p.Alias)
	f = append(f, lower, p.CheckProperties(Ends{Pod: l}, true), p.CheckLease(ctx))
	if d.Chained || p.IPAM != nil {
		f = append(f, p.CheckAddresses(ctx))
	}
	return Wrong(errors.Join(f...))
}

// Del takes the interface and its addresses away. It needs neither the namespace nor prevResult nor the device.
func (d Device) Del(ctx context.Context, r *cni.Request) error {
	p, _, err := d.begin(r)
	if err != nil {
		return err
	}
	defer p.Close()
	p.device.MAC, _ = inet.ParseMAC(p.prevMAC()) // one without an alias is ours if it has this one
	return p.RemoveAll(ctx)
}

// GC takes back the addresses of attachments that the runtime no longer has: their interfaces went with their containers.
func (d Device) GC(ctx context.Context, r *cni.Request) error {
	p, _, err := d.begin(r)
	if err != nil {
		return err
	}
	defer p.Close()
	if p.IPAM == nil {
		return nil
	}
	return p.IPAM.GC(ctx, r)
}

// Status fails if an ADD could not succeed now.
func (d Device) Status(ctx context.Context, r *cni.Request) error {
	p, c, err := d.begin(r)
	if err != nil {
		return cni.Unavailable(err)
	}
	defer p.Close()
	if err := link.Supported(ctx, p.Node, p.device.Kind); err != nil {
		return cni.Unavailable(p.refused(c, err))
	}
	if err := c.Prepare(ctx, p, p.device); err != nil {
		return cni.Unavailable(err)
	}
	if p.IPAM == nil {
		return nil
	}
	return p.IPAM.Status(ctx, r)
}
