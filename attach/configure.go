//go:build linux

package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/wait"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

// checkMTU refuses an IPv6 address on an interface that cannot carry IPv6.
func (p *Pod) checkMTU(a netip.Addr) error {
	mtu := p.conf.MTU
	if mtu == 0 || mtu >= bridge.MinMTU6 || !a.Is6() || a.Is4In6() {
		return nil
	}
	return cni.Errorf(cni.ErrConfig, `netconf: key "mtu" is %d, and IPv6 (%s) needs at least %d; want more, or no IPv6 range`, mtu, a, bridge.MinMTU6)
}

// Complete fills in what follows from the addresses of a result, and refuses what cannot be.
func (p *Pod) Complete(res *cni.Result) error {
	defaults := map[inet.Family]bool{}
	for i := range res.IPs {
		ip := &res.IPs[i]
		if err := p.checkMTU(ip.Address.Addr()); err != nil {
			return err
		}
		if !ip.Gateway.IsValid() && p.Gateway.Why != "" {
			ip.Gateway = firstHost(ip.Address)
			if ip.Gateway == ip.Address.Addr() || !ip.Address.Contains(ip.Gateway) {
				return cni.Errorf(cni.ErrConfig, `netconf: %s, and %s leaves no address for a gateway; state "gateway" in the range, or use a larger subnet`, p.Gateway.Why, ip.Address)
			}
		}
		if err := p.checkGateway(*ip); err != nil {
			return err
		}
		f := inet.FamilyOf(ip.Address.Addr())
		if !p.Gateway.Default || defaults[f] {
			continue
		}
		defaults[f] = true
		if !slices.ContainsFunc(res.Routes, func(r cni.Route) bool { return r.GW.IsValid() && r.Dst == f.Default() }) {
			res.Routes = append(res.Routes, cni.Route{Dst: f.Default(), GW: ip.Gateway})
		}
	}
	return p.checkNextHops(res)
}

func firstHost(p netip.Prefix) netip.Addr {
	base := p.Masked().Addr()
	if base.BitLen()-p.Bits() == 1 && base != p.Addr() { // /31 and /127: the other one
		return base
	}
	return base.Next()
}

// GatewayOf is the gateway of a range of p.Pools, if it has one.
func (p *Pod) GatewayOf(r ipam.Range) netip.Addr {
	if r.Gateway.IsValid() || p.Gateway.Why == "" {
		return r.Gateway
	}
	return firstHost(r.Subnet)
}

// checkGateway refuses a gateway that no host can have, or that the pod itself has.
func (p *Pod) checkGateway(ip cni.IP) (err error) {
	switch {
	case !ip.Gateway.IsValid():
		return nil
	case ip.Gateway.Is4() != ip.Address.Addr().Is4():
		err = fmt.Errorf("%s is of the other family", ip.Gateway)
	case ip.Gateway == ip.Address.Addr() && p.Gateway.Why != "":
		err = fmt.Errorf("%s is the pod's own address", ip.Gateway)
	default:
		err = ipam.CheckHost(ip.Gateway, ip.Address)
	}
	if err != nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "ipam": the gateway that plugin %q gave with %s cannot be used: %w`, p.conf.IPAM.Type, ip.Address, err)
	}
	return nil
}

// checkNextHops refuses a next hop that no host can have, and warns of one that is on no wire that is known of.
func (p *Pod) checkNextHops(res *cni.Result) error {
	for _, r := range res.Routes {
		if !r.GW.IsValid() {
			continue
		}
		if err := ipam.CheckHost(r.GW, netip.Prefix{}); err != nil {
			return cni.Errorf(cni.ErrConfig, `netconf: key "ipam": the route to %s that plugin %q gave: next hop %w`, r.Dst, p.conf.IPAM.Type, err)
		}
		switch {
		case p.onWire(r.GW, res):
		case p.Gateway.Wire == "" && p.Gateway.Why != "":
			return cni.Errorf(cni.ErrConfig, `netconf: key "ipam": the route to %s leads to %s, and only the gateway is on the wire: %s; want that as next hop, or none`, r.Dst, r.GW, p.Gateway.Why)
		default:
			p.Warn(`netconf: key "ipam": the route to %s leads to %s, which is in no subnet of this network and no gateway of it; it works only if somebody on %s answers for that address`, r.Dst, r.GW, p.Gateway.Wire)
		}
	}
	return nil
}

func (p *Pod) onWire(gw netip.Addr, res *cni.Result) bool {
	if p.Gateway.Wire == "" && p.Gateway.Why != "" {
		return slices.ContainsFunc(res.IPs, func(ip cni.IP) bool { return ip.Gateway == gw })
	}
	return gw.Is6() && gw.IsLinkLocalUnicast() ||
		slices.ContainsFunc(res.IPs, func(ip cni.IP) bool { return ip.Gateway == gw || ip.Address.Contains(gw) }) ||
		slices.ContainsFunc(slices.Concat(p.Pools...), func(r ipam.Range) bool { return r.Gateway == gw || r.Subnet.Contains(gw) })
}

// ChooseMAC is the address that the pod's end gets: the one asked for, else one that derives from its IP address. Where
// there is neither it is the kernel's choice, the zero MAC, save where it must be known before the link is up.
func (p *Pod) ChooseMAC(ips []cni.IP, known bool) inet.MAC {
	switch {
	case p.MAC != inet.MAC{}:
		return p.MAC
	case len(ips) > 0 && !p.throughInterface():
		return link.MACFor(p.Network, ips[0].Address.Addr().String())
	case known || p.throughInterface():
		return link.MACFor(p.Network, p.Owner())
	}
	return inet.MAC{}
}

// Setup is what [Pod.Configure] makes of the pod's end.
type Setup struct {
	MAC    inet.MAC // zero: the one that it has
	IPs    []cni.IP
	Routes []route.Route // of those that are stated twice one counts; see [Routes]
	Down   bool          // the link stays down
	DAD    bool          // wait until no other station has the IPv6 addresses, see [addr.Settle]
	Tell   bool          // other stations on the wire are told of the addresses, now and whenever the MAC changes (arp_notify, ndisc_notify)
	Alone  bool          // without DAD: no routes to the subnets of the addresses, Routes has them; of those to one next hop one counts
}

// Configure sets the pod's end, by its index, up with its addresses and routes, in one system call, and returns its MAC.
func (p *Pod) Configure(ctx context.Context, index int, s Setup) (inet.MAC, error) {
	if err := p.sysctls(s); err != nil {
		return s.MAC, err
	}
	var changes []link.Change
	if s.Tell {
		changes = append(changes, rtnl.ARPNotify(index))
	}
	add := addr.Add
	switch {
	case s.DAD:
		add = addr.AddDetected
	case s.Alone:
		add = addr.AddAlone
	}
	early := func(ip cni.IP) bool { return s.Tell && ip.Address.Addr().Is4() } // the kernel tells of those that are there
	for _, ip := range s.IPs {
		if early(ip) {
			changes = append(changes, add(index, ip.Address))
		}
	}
	if !s.Down || s.MAC != (inet.MAC{}) {
		// The MAC is set before the link is up, in the same message.
		changes = append(changes, link.Set(index, link.Settings{MAC: s.MAC, Up: !s.Down}))
	}
	// Only now the addresses: of those of IPv6 that are there when a link comes up, the kernel makes the routes in a hurry, and
	// where it has no memory ready for them drops the address.
	for _, ip := range s.IPs {
		if !early(ip) {
			changes = append(changes, add(index, ip.Address))
		}
	}
	for i, r := range s.Routes {
		if !slices.ContainsFunc(s.Routes[:i], func(h route.Route) bool {
			return h == r || s.Alone && h.Dst == r.Dst && h.Via == r.Via && h.Table == r.Table && h.Metric == r.Metric
		}) {
			changes = append(changes, route.Add(index, r))
		}
	}
	if err := link.Apply(ctx, p.NS, changes...); err != nil {
		return s.MAC, fmt.Errorf("configure %s in %s: %w", p.IfName, p.NetNS, rtnl.First(err))
	}
	if s.DAD {
		if err := addr.Settle(ctx, p.NS, index); err != nil {
			return s.MAC, err
		}
	}
	if s.MAC == (inet.MAC{}) {
		l, err := link.At(ctx, p.NS, index)
		return l.MAC, err
	}
	return s.MAC, nil
}

// ConfigureHost gives the host end of a pair, which is a port of nothing, addresses and routes over it, in one system call.
func (p *Pod) ConfigureHost(ctx context.Context, host veth.End, prefixes []netip.Prefix, routes []route.Route) error {
	var changes []link.Change
	for _, prefix := range prefixes {
		changes = append(changes, addr.Add(host.Index, prefix))
	}
	for _, r := range routes {
		changes = append(changes, route.Add(host.Index, r))
	}
	if err := link.Apply(ctx, p.Node, changes...); err != nil {
		return p.WithoutIPv6(host.Name, fmt.Errorf("configure %s: %w", host.Name, rtnl.First(err)))
	}
	return nil
}

// WithoutIPv6 names the parameter by which IPv6 is switched off on a link of the node, if that is so, as the reason of err.
func (p *Pod) WithoutIPv6(link string, err error) error {
	key := "net/ipv6/conf/" + link + "/disable_ipv6"
	if v, e := sysctl.Get(p.Node, key); e != nil || v != "1" {
		return err
	}
	return cni.Errorf(cni.ErrConfig, "IPv6 is switched off on %s: set sysctl %s to 0, or remove the IPv6 range: %w", link, key, err)
}

// Routes are those of a result as the kernel gets them: one without a next hop goes to the gateway of its family, if
// there is one, as the reference has it; a next hop outside the pod's subnets is on the link all the same, which the
// kernel knows of link-local ones of IPv6 only.
func Routes(routes []cni.Route, ips []cni.IP) (out []route.Route) {
	for _, r := range routes {
		w := route.Route{Dst: r.Dst, Via: r.GW, MTU: uint32(r.MTU), AdvMSS: uint32(r.AdvMSS), Metric: uint32(r.Priority),
			Table: uint32(r.Table), Scope: uint8(r.Scope)}
		for _, ip := range ips {
			if !w.Via.IsValid() && w.Scope != unix.RT_SCOPE_LINK && ip.Gateway.IsValid() && ip.Gateway.Is4() == r.Dst.Addr().Is4() {
				w.Via = ip.Gateway
			}
		}
		w.OnLink = w.Via.IsValid() && !(w.Via.Is6() && w.Via.IsLinkLocalUnicast()) &&
			!slices.ContainsFunc(ips, func(ip cni.IP) bool { return ip.Address.Contains(w.Via) })
		out = append(out, w)
	}
	return out
}

// sysctls lets the interface carry IPv6 if it is to have an address of it, as the reference does: switched on where a
// runtime switched it off, addresses kept while the link is down.
func (p *Pod) sysctls(s Setup) error {
	if !slices.ContainsFunc(s.IPs, func(ip cni.IP) bool { return ip.Address.Addr().Is6() }) {
		return nil
	}
	dad := "0"
	if s.DAD {
		dad = "1"
	}
	of := func(link, key, value string) sysctl.Var {
		return sysctl.Var{Key: "net/ipv6/conf/" + link + "/" + key, Value: value}
	}
	vars := []sysctl.Var{of("lo", "disable_ipv6", "0"), of(p.IfName, "disable_ipv6", "0"),
		of(p.IfName, "keep_addr_on_down", "1"), of(p.IfName, "accept_dad", dad)}
	if s.Tell {
		vars = append(vars, of(p.IfName, "ndisc_notify", "1"))
	}
	err := sysctl.Ensure(p.NS, vars...)
	if errors.Is(err, fs.ErrNotExist) {
		return cni.Errorf(cni.ErrConfig, "netconf: an IPv6 address is configured and the kernel has no IPv6: remove the IPv6 range or boot without ipv6.disable=1 (%w)", err)
	}
	return err
}

// Prefixes are the addresses.
func Prefixes(ips []cni.IP) []netip.Prefix {
	out := make([]netip.Prefix, len(ips))
	for i, ip := range ips {
		out[i] = ip.Address
	}
	return out
}

// Families are those of the addresses, in the order of [inet.Families].
func Families(ips []cni.IP) (families []inet.Family) {
	for _, f := range inet.Families {
		if slices.ContainsFunc(ips, func(ip cni.IP) bool { return inet.FamilyOf(ip.Address.Addr()) == f }) {
			families = append(families, f)
		}
	}
	return families
}

// Carrier waits until packets can pass. Asking for a link makes the kernel see at once that it has a carrier: the host end
// gets its queue, without which a first packet is now and then lost for a second, and a new bridge its link-local address.
// master is the index of the bridge that the host end is a port of, 0 for none.
//
// With the carrier a port gets a route for IPv6 multicast, which the bridge's makes needless. It goes: the kernel walks all
// of them with every link that comes and goes, on a node of 1000 pods for a fifth of the time that a removal takes.
func (p *Pod) Carrier(ctx context.Context, host veth.End, master int) error {
	c, err := rtnl.Open(p.Node)
	if err != nil {
		return err
	}
	const patience, longest = 10 * time.Second, 50 * time.Millisecond
	var port rtnl.Link
	asked := []*rtnl.Msg{rtnl.GetLinkIndex(host.Index, func(l rtnl.Link) { port = l })}
	if master != 0 {
		multicast := rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), Link: host.Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_MULTICAST}
		asked = append(asked, rtnl.DelRoute(multicast), rtnl.GetLinkIndex(master, func(rtnl.Link) {}))
	}
	err = wait.Until(ctx, patience, longest, func() (bool, error) {
		err := c.Do(asked...)
		return port.OperState == rtnl.OperUp, rtnl.Except(err, unix.ESRCH, unix.EOPNOTSUPP, unix.EAFNOSUPPORT)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return cni.Errorf(cni.ErrIO, "%s has no carrier: operational state %d: %w", host.Name, port.OperState, err)
	}
	return err
}
