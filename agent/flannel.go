//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync/atomic"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Bytes that flannel leaves for the outer headers where the configuration states the MTU of the underlay.
const (
	vxlanOverhead   = 50
	vxlanOverheadV6 = 70
	wgOverhead      = 80
	ipipOverhead    = 20
)

// Flannel is how flannel builds a network of that configuration: under its names, and in dual stack on two underlays, IPv4
// for the IPv4 pods and IPv6 for the IPv6 pods. What cannot be had in the same way is an error.
func Flannel(c flannel.Config) (Layout, error) {
	e, err := c.Encapsulation()
	if err != nil {
		return Layout{}, err
	}
	l := Layout{Prefixes: c.Prefixes()}
	both := c.EnableIPv4 && c.EnableIPv6
	families := []inet.Family{inet.IPv4}
	switch {
	case both:
		families = inet.Families[:]
	case c.EnableIPv6:
		families = []inet.Family{inet.IPv6}
	}
	switch e.Type {
	case flannel.VXLAN:
		for _, f := range families {
			l.Tunnels = append(l.Tunnels, vxlan(e, f))
		}
	case flannel.WireGuard:
		return wireguard(l, e, families)
	case flannel.IPIP:
		l.Tunnels = []Tunnel{{Config: overlay.Config{Encap: "ipip"}, Device: "flannel.ipip", Families: families, Underlay: inet.IPv4, MTU: less(e.MTU, ipipOverhead)}}
	case flannel.HostGW:
		l.Tunnels = []Tunnel{{Config: overlay.Config{Encap: "host-gw"}, MTU: e.MTU}}
	case flannel.Geneve:
		l.Tunnels = []Tunnel{{Config: overlay.Config{Encap: "geneve", VNI: e.VNI, Port: e.Port}}}
	default:
		l.Tunnels = []Tunnel{{Config: overlay.Config{Encap: e.Type}}}
	}
	return l, nil
}

// FollowFlannel has an agent take its layout from the configuration of a flannel network, and notice when that is another
// one. read is asked for it; watch yields it as it is and whenever it has changed, and the zero value beside an error that
// says why there is none any more. An error beside a configuration, and one before the first, are of no consequence.
func (a *Agent) FollowFlannel(read func(context.Context) (flannel.Config, error), watch func(context.Context) iter.Seq2[flannel.Config, error]) {
	var was atomic.Pointer[flannel.Config]
	a.Layout = func(ctx context.Context) (Layout, error) {
		c, err := read(ctx)
		if err != nil {
			return Layout{}, err
		}
		was.Store(&c)
		return Flannel(c)
	}
	a.Changed = func(ctx context.Context) iter.Seq2[bool, error] {
		return func(yield func(bool, error) bool) {
			known := false
			for c, err := range watch(ctx) {
				none := c == flannel.Config{}
				if err != nil && (!none || !known && !errors.Is(err, fs.ErrNotExist)) {
					continue
				}
				if err == nil {
					known = true
					_, err = Flannel(c)
				}
				if !yield(none || c != *was.Load(), err) {
					return
				}
			}
		}
	}
}

func less(mtu, overhead int) int {
	if mtu == 0 {
		return 0
	}
	return mtu - overhead
}

func vxlan(e flannel.Encapsulation, f inet.Family) Tunnel {
	t := Tunnel{Config: overlay.Config{Encap: "vxlan", VNI: e.VNI, Port: e.Port, GBP: e.GBP, DirectRouting: e.DirectRouting},
		Device: fmt.Sprintf("flannel.%d", e.VNI), Families: []inet.Family{f}, Underlay: f, MTU: less(e.MTU, vxlanOverhead)}
	if f == inet.IPv6 {
		t.Device, t.MTU = fmt.Sprintf("flannel-v6.%d", e.VNI), less(e.MTU, vxlanOverheadV6)
	}
	return t
}

func wireguard(l Layout, e flannel.Encapsulation, families []inet.Family) (Layout, error) {
	if e.PSK != "" {
		return Layout{}, errors.New(`flannel configuration: Backend.PSK: preshared keys are not supported: leave it out on all nodes, or use vxlan`)
	}
	t := Tunnel{Config: overlay.Config{Encap: "wireguard", Port: e.Port, PersistentKeepalive: uint16(e.Keepalive.Seconds())},
		Device: "flannel-wg", MTU: less(e.MTU, wgOverhead)}
	switch e.Mode {
	case flannel.ModeIPv4:
		t.Underlay = inet.IPv4
	case flannel.ModeIPv6:
		t.Underlay = inet.IPv6
	case flannel.ModeSeparate:
		for _, f := range families {
			own := t
			own.Families, own.Underlay = []inet.Family{f}, f
			if f == inet.IPv6 {
				own.Device, own.Port = "flannel-wg-v6", e.PortV6
			}
			l.Tunnels = append(l.Tunnels, own)
		}
		return l, nil
	}
	l.Tunnels = []Tunnel{t}
	return l, nil
}
