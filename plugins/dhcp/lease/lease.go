//go:build linux

// Package lease gets an IPv4 address from a DHCP server for an interface of a network namespace, keeps it as long as it is
// needed, and gives it back (RFC 2131). No thread stays in the namespace and nothing holds it: it is opened for each
// exchange of messages, and goes when its last process does.
//
// Out of scope: putting the address on the interface. Only an address whose lease has expired is taken off, and put on
// again with its routes when the server gives it again.
package lease

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// Lease is an address for a time. Times are those since the machine booted: no change of the clock changes them.
type Lease struct {
	ACK       *dhcpv4.DHCPv4 // the server's last answer
	At        time.Duration  // when it was asked for
	Withdrawn bool           // the address was taken off the interface: the lease had expired
}

// Route is a route that the server wants; Via is zero where the destination is on the link.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// usual is the time of a lease whose server states none.
const usual = time.Hour

// now is the time since the machine booted.
func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

// deadlines are when to ask the server for more time, when to ask any server, and when the address may no longer be used
// (RFC 2131, section 4.4.5). A server that states them in another order than that is not listened to.
func (l Lease) deadlines() (renew, rebind, expire time.Duration) {
	all := max(l.ACK.IPAddressLeaseTime(usual), time.Second)
	t2 := l.ACK.IPAddressRebindingTime(all * 7 / 8)
	t1 := l.ACK.IPAddressRenewalTime(all / 2)
	if t1 <= 0 || t1 > t2 || t2 > all {
		t1, t2 = all/2, all*7/8
	}
	return l.At + t1, l.At + t2, l.At + all
}

// Expires is how long the address may still be used.
func (l Lease) Expires() time.Duration {
	_, _, expire := l.deadlines()
	return expire - now()
}

func ipv4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// Prefix is the address with the length of its subnet.
func (l Lease) Prefix() (netip.Prefix, error) {
	mask := l.ACK.SubnetMask()
	ones, bits := mask.Size()
	if bits != 32 {
		return netip.Prefix{}, fmt.Errorf("DHCP option Subnet Mask not found in DHCPACK: server %s gave %s without option 1", l.ACK.ServerIdentifier(), l.ACK.YourIPAddr)
	}
	a := ipv4(l.ACK.YourIPAddr)
	if !a.IsValid() || a.IsMulticast() || a.IsLoopback() {
		return netip.Prefix{}, fmt.Errorf("server %s gave %s, which no interface can have", l.ACK.ServerIdentifier(), l.ACK.YourIPAddr)
	}
	return netip.PrefixFrom(a, ones), nil
}

// Gateway is the first router that the server names; zero if it names none.
func (l Lease) Gateway() netip.Addr {
	if all := l.ACK.Router(); len(all) > 0 {
		return ipv4(all[0])
	}
	return netip.Addr{}
}

// Routes are those of option 121, which then are all (RFC 3442), else those of option 33 and the default route by way of
// the gateway.
func (l Lease) Routes() (routes []Route) {
	for _, r := range l.ACK.ClasslessStaticRoute() {
		if r.Dest == nil {
			continue
		}
		ones, _ := r.Dest.Mask.Size()
		if dst, err := ipv4OrZero(r.Dest.IP).Prefix(ones); err == nil {
			routes = append(routes, Route{Dst: dst, Via: ipv4(r.Router)})
		}
	}
	if len(routes) > 0 {
		return routes
	}
	for b := l.ACK.Options.Get(dhcpv4.OptionStaticRoutingTable); len(b) >= 8; b = b[8:] {
		dst := net.IP(b[:4])
		ones, _ := dst.DefaultMask().Size() // classful (RFC 2132, section 5.8)
		if p, err := ipv4OrZero(dst).Prefix(ones); err == nil && ones > 0 {
			routes = append(routes, Route{Dst: p, Via: ipv4(b[4:8])})
		}
	}
	if gw := l.Gateway(); gw.IsValid() {
		routes = append(routes, Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: gw})
	}
	return routes
}

func ipv4OrZero(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}
