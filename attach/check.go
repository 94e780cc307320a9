//go:build linux

package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
)

// Ends are those of a pair as they were found; one that is not there has no index.
type Ends struct {
	Host, Pod link.Link
	Reference bool // made by the reference plugin
}

// Find finds the pair for CHECK, and says which end is missing.
func (p *Pod) Find(ctx context.Context) (e Ends, err error) {
	var noPod, noHost error
	if e.Pod, noPod = link.Get(ctx, p.NS, p.IfName); noPod != nil {
		noPod = fmt.Errorf("interface %s in %s: %w", p.IfName, p.NetNS, noPod)
	}
	e.Host, noHost = link.Get(ctx, p.Node, p.Host)
	if errors.Is(noHost, fs.ErrNotExist) {
		end, ok, err := p.referenceEnd(ctx, p.NS)
		if ok {
			e.Host, e.Reference, noHost = end, true, nil
		} else {
			noHost = errors.Join(fmt.Errorf("the host end of %s: %w", p.IfName, noHost), err)
		}
	}
	return e, errors.Join(noPod, noHost)
}

// CheckEnds finds that by which no packet gets through the pair.
func (p *Pod) CheckEnds(e Ends, down bool) error {
	var f Findings
	if e.Pod.Index != 0 {
		f.Add(e.Pod.Kind != "veth" || e.Host.Index != 0 && (e.Pod.Lower != e.Host.Index || e.Host.Lower != e.Pod.Index),
			"interface %s in %s is not the other end of %s", p.IfName, p.NetNS, cmp.Or(e.Host.Name, p.Host))
		f.Add(!e.Pod.Up && !down, "interface %s in %s is down", p.IfName, p.NetNS)
	}
	f.Add(e.Host.Index != 0 && !e.Host.Up, "%s is down", e.Host.Name)
	return errors.Join(f...)
}

// CheckProperties finds what else differs of the pair; anyMTU: the host end may have another one than the netconf says.
func (p *Pod) CheckProperties(e Ends, anyMTU bool) error {
	if err := p.NeedPrev(); err != nil {
		return err
	}
	var f Findings
	if want := p.prevMAC(); e.Pod.Index != 0 && want != "" {
		f.Add(want != e.Pod.MAC.String(), "interface %s in %s has MAC %s; prevResult says %s", p.IfName, p.NetNS, e.Pod.MAC, want)
	}
	if e.Host.Index != 0 {
		mtu := p.conf.MTU
		f.Add(mtu != 0 && e.Host.MTU != mtu && !anyMTU, "%s has MTU %d; want %d", e.Host.Name, e.Host.MTU, mtu)
		f.Add(!e.Reference && e.Host.Alias != p.Alias, "%s has the alias %q; want %q", e.Host.Name, e.Host.Alias, p.Alias)
	}
	return errors.Join(f...)
}

// prevMAC is what prevResult says of the interface in the container; "" if nothing.
func (p *Pod) prevMAC() string {
	if p.Prev != nil {
		for _, l := range p.Prev.Interfaces {
			if l.Name == p.IfName && l.Sandbox != "" {
				return l.MAC
			}
		}
	}
	return ""
}

// CheckAddresses looks for the addresses and routes of the result in the pod. If it names several interfaces in the
// container, as that of a chain that made them does, each route may be over any of them, and a next hop that it does not
// state any address.
func (p *Pod) CheckAddresses(ctx context.Context) error {
	if err := p.NeedPrev(); err != nil || p.IPAM == nil && p.device == nil {
		return err
	}
	links := []string{p.IfName}
	for _, l := range p.Prev.Interfaces {
		if l.Sandbox != "" && !slices.Contains(links, l.Name) {
			links = append(links, l.Name)
		}
	}
	var ips []cni.IP
	if len(links) == 1 {
		ips = p.PrevIPs()
	}
	err := errors.Join(addr.Check(ctx, p.NS, p.IfName, Prefixes(p.PrevIPs())...), route.CheckLinks(ctx, p.NS, links, Routes(p.Prev.Routes, ips)...))
	if err != nil {
		return fmt.Errorf("in %s: %w", p.NetNS, err)
	}
	return nil
}

// CheckLease has the IPAM plugin check.
func (p *Pod) CheckLease(ctx context.Context) error {
	if p.IPAM == nil {
		return nil
	}
	return p.IPAM.Check(ctx, p.Request)
}
