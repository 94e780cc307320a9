//go:build linux

package portmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// wayTo is the name of the link by which packets to a pod leave.
func wayTo(ns *netns.NS, pod netip.Addr) (string, error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return "", err
	}
	index := 0
	if err := c.Do(rtnl.RouteTo(pod, func(r rtnl.Route) { index = r.Link })); err != nil {
		return "", fmt.Errorf("the node has no way to the pod: %w", err)
	}
	l, err := link.At(context.Background(), ns, index)
	return l.Name, err
}

func routeLocalnet(device string) string { return "net/ipv4/conf/" + device + "/route_localnet" }

// openLoopback lets packets from and to 127.0.0.0/8 pass by way of the link to the pod: the subnet's, or the pod's own.
func openLoopback(ns *netns.NS, device string, p Pod) error {
	return sysctl.Ensure(ns, sysctl.Var{Key: routeLocalnet(cmp.Or(device, p.Device)), Value: "1"})
}

func checkLoopback(ns *netns.NS, device string, p Pod) error {
	key := routeLocalnet(cmp.Or(device, p.Device))
	value, err := sysctl.Get(ns, key)
	if err == nil && value != "1" {
		err = fmt.Errorf("%s is %s in place of 1: 127.0.0.1 does not reach the pod", key, value)
	}
	return err
}

// closeLoopback gives back what openLoopback changed of links, unless pods of the other backend need it.
func closeLoopback(ctx context.Context, ns *netns.NS, devices []string, byTable bool) error {
	var chains []string
	if byTable && len(devices) > 0 {
		c, err := nft.Open(ns)
		if err == nil {
			chains, err = Table{NS: ns}.chains(c)
		}
		if err != nil && !nft.Missing(err) {
			return err
		}
	}
	var errs []error
	for _, device := range devices {
		if slices.ContainsFunc(chains, func(chain string) bool { return needs(chain, device) }) {
			continue
		}
		err := sysctl.Ensure(ns, sysctl.Var{Key: routeLocalnet(device), Value: "0"})
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func netipAny(m Map) netip.AddrPort {
	a := netip.IPv6Unspecified()
	if m.Host.Addr().Is4() {
		a = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(a, m.Host.Port())
}

// endStale ends flows of UDP to the pod's host ports that lead elsewhere, or nowhere: they would go on as long as somebody sends.
func endStale(_ context.Context, ns *netns.NS, c *nft.Conn, p Pod) error {
	for v4, f := range families {
		ports := map[uint16]Map{}
		for _, m := range p.of(v4) {
			if m.Proto == UDP {
				ports[m.Host.Port()] = m
			}
		}
		if len(ports) == 0 {
			continue
		}
		flows, err := c.Flows(f.nf, uint8(UDP))
		if err != nil {
			return noConntrack(err)
		}
		var stale []nft.Flow
		local := map[netip.Addr]bool{}
		for _, flow := range flows {
			m, ok := ports[flow.Orig.Dst.Port()]
			to := flow.Orig.Dst.Addr()
			if !ok || !m.any() && m.Host.Addr() != to || flow.Reply.Src == m.Pod {
				continue
			}
			if _, asked := local[to]; !asked {
				if local[to], err = isLocal(ns, to); err != nil {
					return err
				}
			}
			if local[to] {
				stale = append(stale, flow)
			}
		}
		if err := c.EndFlows(f.nf, stale); err != nil {
			return err
		}
	}
	return nil
}

func isLocal(ns *netns.NS, a netip.Addr) (local bool, err error) {
	c, err := rtnl.Open(ns)
	if err == nil {
		err = c.Do(rtnl.RouteTo(a, func(r rtnl.Route) { local = r.Type == unix.RTN_LOCAL }))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) {
		return false, nil // there is no way there
	}
	return local, err
}

// endOf ends the flows of UDP by maps that are gone: who goes on sending is not answered by whoever gets the address.
func endOf(c *nft.Conn, maps []Map) error {
	for v4, f := range families {
		pods := map[netip.AddrPort]bool{}
		for _, m := range maps {
			if m.Proto == UDP && m.Host.Addr().Is4() == v4 {
				pods[m.Pod] = true
			}
		}
		if len(pods) == 0 {
			continue
		}
		flows, err := c.Flows(f.nf, uint8(UDP))
		if err != nil {
			return noConntrack(err)
		}
		var list []nft.Flow
		for _, flow := range flows {
			if pods[flow.Reply.Src] && flow.Orig.Dst != flow.Reply.Src {
				list = append(list, flow)
			}
		}
		if err := c.EndFlows(f.nf, list); err != nil {
			return err
		}
	}
	return nil
}

// noConntrack: a kernel without that part of netlink has it as a module that cannot be loaded.
func noConntrack(err error) error {
	if nft.Missing(err) {
		return nil
	}
	return err
}

// podList puts pods together out of their parts.
type podList map[string]*Pod

func (l *podList) of(label string) *Pod {
	if *l == nil {
		*l = podList{}
	}
	if (*l)[label] == nil {
		(*l)[label] = &Pod{Owner: label}
	}
	return (*l)[label]
}

func (l podList) sorted() (pods []Pod) {
	for _, p := range l {
		order.By(p.Maps, compareMaps)
		pods = append(pods, *p)
	}
	order.By(pods, func(a, b Pod) int { return strings.Compare(a.Owner, b.Owner) })
	return pods
}

func compareMaps(a, b Map) int {
	return cmp.Or(a.Host.Addr().Compare(b.Host.Addr()), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Host.Port(), b.Host.Port()))
}
