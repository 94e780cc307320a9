package peer_test

import (
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// Read a document, find this machine in it, and carry packets to the others.
func Example() {
	doc := []byte(`{
		"network": "10.244.0.0/16",
		"peers": [
			{ "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24" },
			{ "name": "b", "endpoint": "192.0.2.12", "pods": "10.244.2.0/24" },
			{ "name": "c", "endpoint": "192.0.2.13", "pods": "10.244.2.128/25" } ] }`)
	n, problems, err := peer.Parse(doc)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range problems {
		fmt.Println(p)
	}
	self, err := peer.Self(n.Peers, "a", nil, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range peer.Others(n.Peers, self.Name) {
		fmt.Println(p.Pods[0], "via", p.V4.Addr, "from", self.NodeAddrs()[0])
	}
	// Output:
	// peer "c": pods 10.244.2.128/25 overlaps pods 10.244.2.0/24 of peer "b": give every peer ranges of its own
	// 10.244.2.0/24 via 192.0.2.12 from 10.244.1.0
}

func ExampleSelf() {
	peers := []peer.Peer{{Name: "a"}, {Name: "b"}}
	_, err := peer.Self(peers, "c", nil, "")
	fmt.Println(err)
	// Output: which peer is this machine? Key "node" says "c", which is not among the peers "a", "b"; state the name of a peer, or leave the key out
}

func ExampleFormat() {
	fmt.Printf("%s", peer.Format(peer.Network{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Peers: []peer.Peer{{
			Name:  "a",
			Pods:  []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
			Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11"), Port: 8472}},
		}},
	}))
	// Output:
	// { "network": "10.244.0.0/16",
	//   "peers": [
	//     { "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24", "port": 8472 } ] }
}

func ExampleNodeAddr() {
	fmt.Println(peer.NodeAddr(netip.MustParsePrefix("10.244.1.0/24")))
	fmt.Println(peer.NodeAddr(netip.MustParsePrefix("fd00:10:244:1::/64")))
	// Output:
	// 10.244.1.0
	// fd00:10:244:1:ffff:ffff:ffff:ffff
}

func ExampleDeriveMAC() {
	fmt.Println(peer.DeriveMAC("pods", "a", inet.IPv4))
	// Output: 92:49:0c:31:1c:d7
}
