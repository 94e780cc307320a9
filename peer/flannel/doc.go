// Package flannel knows the formats in which flannel (v0.28) keeps a network, byte for byte: the configuration ([Config]),
// the keys and values of leases in etcd ([Lease]), the annotations of Kubernetes nodes ([Annotations]) and subnet.env
// ([SubnetEnv]). Leases are turned into peers ([Lease.Peer]) and made of them ([Encode]).
//
// Reading is tolerant: unknown keys are ignored, as flannel does, and the names of keys are matched without regard to case.
// Writing gives the bytes that flannel writes. Nothing here touches the kernel or the network, and the disk only
// [ReadSubnetEnv] and [WriteSubnetEnv].
//
// flannel's dual stack is two underlays: PublicIP carries the IPv4 pods, PublicIPv6 the IPv6 pods, each with a device, a
// MAC or a key of its own. That is what the two endpoints of a [peer.Reach] hold.
//
// What is wrong with one lease is a [*peer.Problem] in the error, for a source to report while it keeps all other peers.
package flannel

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cniblocks/cniblocks/peer"
)

// The backends of flannel that carry packets between nodes of any kind.
const (
	VXLAN     = "vxlan"
	HostGW    = "host-gw"
	IPIP      = "ipip"
	WireGuard = "wireguard"
)

// What this project adds: flanneld ignores peers of these types and does not start in a network of one.
const (
	GRE    = "gre"
	Geneve = "geneve"
)

var types = [...]string{VXLAN, HostGW, IPIP, WireGuard, GRE, Geneve}

const knownTypes = "vxlan, host-gw, ipip, wireguard, gre, geneve"

// known is the name of a backend as one string for all its leases, "" if it is not known here.
func known(backend string) string {
	for _, t := range types {
		if t == backend {
			return t
		}
	}
	return ""
}

func problem(key, value, reason, remedy string, args ...any) *peer.Problem {
	return &peer.Problem{Key: key, Value: value, Reason: reason, Remedy: fmt.Sprintf(remedy, args...)}
}

// quote shows a string of a stranger: escaped, and cut where it is longer than anyone reads.
func quote(s string) string { return strconv.Quote(cut(s)) }

// show is a JSON value as it is written, which has no control characters outside of strings but space.
func show(v []byte) string { return cut(strings.Join(strings.Fields(string(v)), " ")) }

func cut(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
