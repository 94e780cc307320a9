package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/veth"
)

// Check compares every object that Add made with what it should be. What chained plugins may change is not looked at:
// the MTU, queues, sysctls and promiscuity of the pod's end.
func (p Plugin) Check(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	if r.Prev == nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "prevResult" is missing; CHECK needs the result of the ADD`)
	}
	if j.ipam != nil {
		if err := j.ipam.Check(ctx, r); err != nil {
			return err
		}
	}
	br, err := bridge.Check(ctx, j.host, j.wanted(r.Network))
	if err != nil {
		return wrong(err)
	}
	pair, err := j.checkPair(ctx, br)
	if err != nil {
		return wrong(err)
	}
	return wrong(errors.Join(j.checkPod(ctx), j.checkGateways(ctx, br), j.checkGuard(ctx, pair), j.checkSNAT(ctx, pair.reference)))
}

// wrong gives the code of a state that is not as it should be: the runtime may try again, with a new ADD.
func wrong(err error) error {
	var e *cni.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return cni.Errorf(cni.ErrIO, "%w", err)
}

// present is an attachment as it was found.
type present struct {
	host, pod rtnl.Link
	reference bool // made by the reference plugin
}

func (j *job) checkPair(ctx context.Context, br bridge.State) (p present, err error) {
	host, err := rtnl.Open(j.host)
	if err != nil {
		return p, err
	}
	pod, err := rtnl.Open(j.pod)
	if err != nil {
		return p, err
	}
	if p.pod, err = pod.LinkByName(j.IfName); err != nil {
		return p, fmt.Errorf("interface %s in %s: %w", j.IfName, j.NetNS, err)
	}
	p.host, err = host.LinkByName(veth.HostName(j.Network, j.ContainerID, j.IfName))
	if errors.Is(err, fs.ErrNotExist) {
		end, ok, e := referencePair(ctx, j.host, j.pod, j.IfName, j.Bridge)
		if e != nil || !ok {
			return p, errors.Join(fmt.Errorf("the host end of %s: %w", j.IfName, err), e)
		}
		p.host, p.reference, err = end, true, nil
	}
	if err != nil {
		return p, err
	}
	return p, j.checkEnds(ctx, p, br)
}

func (j *job) checkEnds(ctx context.Context, p present, br bridge.State) error {
	prev := j.prevPod()
	switch {
	case p.pod.Kind != "veth" || p.pod.Peer != p.host.Index || p.host.Peer != p.pod.Index:
		return fmt.Errorf("interface %s in %s is not the other end of %s", j.IfName, j.NetNS, p.host.Name)
	case p.host.Master != br.Index:
		return fmt.Errorf("%s is not a port of bridge %s", p.host.Name, br.Name)
	case !p.host.Up():
		return fmt.Errorf("%s is down", p.host.Name)
	case !p.pod.Up() && !j.DisableContainerInterface:
		return fmt.Errorf("interface %s in %s is down", j.IfName, j.NetNS)
	case j.MTU != 0 && p.host.MTU != j.MTU:
		return fmt.Errorf("%s has MTU %d; want %d", p.host.Name, p.host.MTU, j.MTU)
	case p.host.Port.Hairpin != j.HairpinMode:
		return fmt.Errorf("%s has hairpin mode %v; want %v", p.host.Name, p.host.Port.Hairpin, j.HairpinMode)
	case p.host.Port.Isolated != j.PortIsolation:
		return fmt.Errorf("%s has port isolation %v; want %v", p.host.Name, p.host.Port.Isolated, j.PortIsolation)
	case !p.reference && p.host.Alias != j.alias:
		return fmt.Errorf("%s has the alias %q; want %q", p.host.Name, p.host.Alias, j.alias)
	case prev.MAC != "" && prev.MAC != p.pod.MAC.String():
		return fmt.Errorf("interface %s in %s has MAC %s; prevResult says %s", j.IfName, j.NetNS, p.pod.MAC, prev.MAC)
	}
	return bridge.CheckPort(ctx, j.host, p.host.Index, j.port)
}

// prevPod is what prevResult says of the pod's end.
func (j *job) prevPod() cni.Interface {
	if i := j.prevIndex(); i >= 0 {
		return j.Prev.Interfaces[i]
	}
	return cni.Interface{}
}

func (j *job) prevIndex() int {
	return slices.IndexFunc(j.Prev.Interfaces, func(l cni.Interface) bool { return l.Name == j.IfName && l.Sandbox != "" })
}

func (j *job) checkPod(ctx context.Context) error {
	if j.ipam == nil {
		return nil
	}
	if err := addr.Check(ctx, j.pod, j.IfName, prefixes(j.PrevIPs())...); err != nil {
		return fmt.Errorf("in %s: %w", j.NetNS, err)
	}
	var routes []route.Route
	for _, r := range j.Prev.Routes {
		routes = append(routes, podRoute(r, &cni.Result{IPs: j.PrevIPs()}))
	}
	if err := route.CheckLink(ctx, j.pod, j.IfName, routes...); err != nil {
		return fmt.Errorf("in %s: %w", j.NetNS, err)
	}
	return nil
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
	name, index := br.Name, br.Index
	if j.VLAN != 0 {
		c, err := rtnl.Open(j.host)
		if err != nil {
			return err
		}
		l, err := c.LinkByName(bridge.VLANGatewayName(br.Name, j.port.VLAN))
		if err != nil {
			return err
		}
		name, index = l.Name, l.Index
	}
	return errors.Join(bridge.CheckGateways(ctx, j.host, index, name, want...), route.CheckForward(ctx, j.host, families...))
}
