//go:build linux

package agent_test

import (
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/peer"
)

// many are peers that nobody is, behind the router.
func many(n int) []peer.Peer {
	all := make([]peer.Peer, n)
	for i := range all {
		all[i] = peer.Peer{Name: fmt.Sprintf("n%05d", i), Pods: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + byte(i>>8), byte(i), 0}), 24)},
			Reach: peer.Reach{Encap: "vxlan", V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), MAC: peer.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}}}
	}
	return all
}
