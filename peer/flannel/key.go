package flannel

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// Prefix is the place of a network in etcd, if another is not configured. Below it stand "config" and the leases, under
// "subnets/" and their [Lease.Key].
const Prefix = "/coreos.com/network"

// noIPv4 stands for the IPv4 range in the key of a lease that has none. It is what flannel's own rule makes of it, but no
// flanneld can be in a network that has such keys: it takes the range to be all of IPv4.
const noIPv4 = "0.0.0.0-0"

// Key is the last part of a lease's key in etcd: "10.244.1.0-24", in dual stack "10.244.1.0-24&fd00:10:244:1::-64", and of
// IPv6 alone, which only this project has there, "0.0.0.0-0&fd00:10:244:1::-64".
func (l Lease) Key() string {
	key := noIPv4
	if l.Subnet.IsValid() {
		key = KeyOf(l.Subnet)
	}
	if l.IPv6Subnet.IsValid() {
		key += "&" + KeyOf(l.IPv6Subnet)
	}
	return key
}

// KeyOf is how a range is written in keys: with a "-" in place of the "/".
func KeyOf(r netip.Prefix) string { return r.Addr().String() + "-" + strconv.Itoa(r.Bits()) }

// ParseKey reads the last part of a lease's key: a lease with ranges and without attributes. The error is a
// [*peer.Problem].
func ParseKey(key string) (Lease, error) {
	four, six, dual := strings.Cut(key, "&")
	var l Lease
	var err *peer.Problem
	if !dual || four != noIPv4 {
		if l.Subnet, err = parseRange(key, four, inet.IPv4); err != nil {
			return Lease{}, err
		}
	}
	if dual {
		if l.IPv6Subnet, err = parseRange(key, six, inet.IPv6); err != nil {
			return Lease{}, err
		}
	}
	return l, nil
}

func parseRange(key, s string, f inet.Family) (netip.Prefix, *peer.Problem) {
	const remedy = `name it as flannel does, such as "10.244.1.0-24" or "10.244.1.0-24&fd00:10:244:1::-64", or delete it`
	addr, bits, _ := strings.Cut(s, "-")
	a, err := netip.ParseAddr(addr)
	n, atoi := strconv.ParseUint(bits, 10, 8)
	if err != nil || atoi != nil || a.Zone() != "" || inet.FamilyOf(a) != f || n == 0 || int(n) > a.BitLen() {
		return netip.Prefix{}, problem("key", quote(key), "names no range of "+f.String(), remedy)
	}
	r := netip.PrefixFrom(a, int(n))
	if r != r.Masked() {
		return netip.Prefix{}, problem("key", quote(key), "has bits set beyond the length of "+s, "the range is %s; delete the key and put it again as that", KeyOf(r.Masked()))
	}
	return r, nil
}
