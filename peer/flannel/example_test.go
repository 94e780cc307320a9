package flannel_test

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// What flanneld writes into etcd becomes a peer, and the other way round.
func ExampleLease_Peer() {
	l, err := flannel.ParseKey("10.5.52.0-24")
	if err == nil {
		l.Attrs, err = flannel.ParseAttrs([]byte(`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}`))
	}
	if err != nil {
		panic(err)
	}
	p, err := l.Peer("node-1")
	fmt.Println(p.Name, p.Pods, p.V4.Addr, p.Encap, err)
	// Output: node-1 [10.5.52.0/24] 192.168.64.3 host-gw <nil>
}

func ExampleEncode() {
	l, err := flannel.Encode(peer.Peer{
		Name: "node-1",
		Pods: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
		Reach: peer.Reach{
			Encap: flannel.VXLAN,
			V4:    peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11"), MAC: inet.MAC{0x0a, 0x58, 10, 244, 1, 2}, VNI: 1},
			V6:    peer.Endpoint{Addr: netip.MustParseAddr("2001:db8::11"), MAC: inet.MAC{0x0a, 0x58, 10, 244, 1, 3}, VNI: 1},
		},
	})
	if err != nil {
		panic(err)
	}
	value, err := json.MarshalIndent(l.Attrs, "", "  ")
	fmt.Println(l.Key(), err)
	fmt.Println(string(value))
	// Output:
	// 10.244.1.0-24&fd00:10:244:1::-64 <nil>
	// {
	//   "PublicIP": "192.0.2.11",
	//   "PublicIPv6": "2001:db8::11",
	//   "BackendType": "vxlan",
	//   "BackendData": {
	//     "VNI": 1,
	//     "VtepMAC": "0a:58:0a:f4:01:02"
	//   },
	//   "BackendV6Data": {
	//     "VNI": 1,
	//     "VtepMAC": "0a:58:0a:f4:01:03"
	//   }
	// }
}
