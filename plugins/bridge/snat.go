package bridge

import (
	"net/netip"

	"github.com/cniblocks/cniblocks/cni"
)

func prefixes(ips []cni.IP) []netip.Prefix {
	out := make([]netip.Prefix, len(ips))
	for i, ip := range ips {
		out[i] = ip.Address
	}
	return out
}
