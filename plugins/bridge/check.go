package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
)

// Check compares every object that Add made with what it should be, and names every difference: first those by which
// packets are lost. What chained plugins may change is not looked at: the MTU, queues, sysctls and promiscuity of the
// pod's end.
func (p Plugin) Check(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	if r.Prev == nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "prevResult" is missing; CHECK needs the result of the ADD`)
	}
	want := j.wanted(r.Network)
	br, err := bridge.Check(ctx, j.host, bridge.Bridge{Name: want.Name, VLANFiltering: want.VLANFiltering})
	found := []error{err}
	pair, err := j.findPair(ctx)
	found = append(found, err, j.checkEnds(ctx, pair, br))
	if pair.pod.Index != 0 {
		found = append(found, j.checkPod(ctx))
	}
	if br.Index != 0 {
		found = append(found, j.checkGateways(ctx, br))
	}
	if j.ipam != nil {
		found = append(found, j.ipam.Check(ctx, r))
	}
	found = append(found, j.checkSNAT(ctx, pair.reference))
	if pair.host.Index != 0 && pair.pod.Index != 0 {
		found = append(found, j.checkGuard(ctx, pair))
	}
	return wrong(errors.Join(append(found, j.checkProperties(pair, br))...))
}

// wrong gives the code of a state that is not as it should be: the runtime may try again, with a new ADD.
func wrong(err error) error {
	var e *cni.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return cni.Errorf(cni.ErrIO, "%w", err)
}

// present is an attachment as it was found; an end that is not there has no index.
type present struct {
	host, pod rtnl.Link
	reference bool // made by the reference plugin
}

func (j *job) findPair(ctx context.Context) (p present, err error) {
	host, err := rtnl.Open(j.host)
	if err != nil {
		return p, err
	}
	pod, err := rtnl.Open(j.pod)
	if err != nil {
		return p, err
	}
	var noPod, noHost error
	if p.pod, noPod = pod.LinkByName(j.IfName); noPod != nil {
		noPod = fmt.Errorf("interface %s in %s: %w", j.IfName, j.NetNS, noPod)
	}
	p.host, noHost = host.LinkByName(link.HostName(j.Network, j.ContainerID, j.IfName))
	if errors.Is(noHost, fs.ErrNotExist) {
		end, ok, err := referencePair(ctx, j.host, j.pod, j.IfName, j.Bridge)
		if ok {
			p.host, p.reference, noHost = end, true, nil
		} else {
			noHost = errors.Join(fmt.Errorf("the host end of %s: %w", j.IfName, noHost), err)
		}
	}
	return p, errors.Join(noPod, noHost)
}

// findings are differences, in the order in which they are told.
type findings []error

func (f *findings) add(differs bool, format string, a ...any) {
	if differs {
		*f = append(*f, fmt.Errorf(format, a...))
	}
}

// checkEnds finds that by which no packet gets through.
func (j *job) checkEnds(ctx context.Context, p present, br bridge.State) error {
	var f findings
	if p.pod.Index != 0 {
		f.add(p.pod.Kind != "veth" || p.host.Index != 0 && (p.pod.Peer != p.host.Index || p.host.Peer != p.pod.Index),
			"interface %s in %s is not the other end of %s", j.IfName, j.NetNS, cmp.Or(p.host.Name, link.HostName(j.Network, j.ContainerID, j.IfName)))
		f.add(!p.pod.Up() && !j.DisableContainerInterface, "interface %s in %s is down", j.IfName, j.NetNS)
	}
	if p.host.Index != 0 {
		f.add(!p.host.Up(), "%s is down", p.host.Name)
		f.add(br.Index != 0 && p.host.Master != br.Index, "%s is not a port of bridge %s", p.host.Name, br.Name)
		if br.Index != 0 && p.host.Master == br.Index {
			f = append(f, bridge.CheckPort(ctx, j.host, p.host.Index, j.port))
		}
	}
	return errors.Join(f...)
}

// checkProperties finds what else differs.
func (j *job) checkProperties(p present, br bridge.State) error {
	var f findings
	if prev := j.prevPod(); p.pod.Index != 0 && prev.MAC != "" {
		f.add(prev.MAC != p.pod.MAC.String(), "interface %s in %s has MAC %s; prevResult says %s", j.IfName, j.NetNS, p.pod.MAC, prev.MAC)
	}
	if h := p.host; h.Index != 0 {
		kept := j.MTU < bridge.MinMTU6 && h.MTU >= bridge.MinMTU6 // see hostMTU
		f.add(j.MTU != 0 && h.MTU != j.MTU && !kept, "%s has MTU %d; want %d", h.Name, h.MTU, j.MTU)
		f.add(h.Port.Isolated != j.PortIsolation, "%s has port isolation %v; want %v", h.Name, h.Port.Isolated, j.PortIsolation)
		f.add(h.Port.Hairpin != j.HairpinMode, "%s has hairpin mode %v; want %v", h.Name, h.Port.Hairpin, j.HairpinMode)
		f.add(!p.reference && h.Alias != j.alias, "%s has the alias %q; want %q", h.Name, h.Alias, j.alias)
	}
	f.add(br.Index != 0 && j.PromiscMode && !br.Promisc, "bridge %s is not in promiscuous mode", br.Name)
	return errors.Join(f...)
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

// checkPod looks for the addresses and routes of the result. If it names several interfaces in the container, as that of a
// chain that made them does, each route may be over any of them, and a next hop that it does not state any address.
func (j *job) checkPod(ctx context.Context) error {
	if j.ipam == nil {
		return nil
	}
	links := []string{j.IfName}
	for _, l := range j.Prev.Interfaces {
		if l.Sandbox != "" && !slices.Contains(links, l.Name) {
			links = append(links, l.Name)
		}
	}
	var via cni.Result
	if len(links) == 1 {
		via.IPs = j.PrevIPs()
	}
	var routes []route.Route
	for _, r := range j.Prev.Routes {
		routes = append(routes, podRoute(r, &via))
	}
	if err := errors.Join(addr.Check(ctx, j.pod, j.IfName, prefixes(j.PrevIPs())...), route.CheckLinks(ctx, j.pod, links, routes...)); err != nil {
		return fmt.Errorf("in %s: %w", j.NetNS, err)
	}
	return nil
}
