package etcd_test

import (
	"context"
	"log"
	"net/netip"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

// A node takes a range, makes its devices, publishes them, and follows the others.
func Example() {
	s, err := etcd.New(etcd.Options{
		Endpoints: []string{"http://192.0.2.1:2379"},
		StateFile: "/var/lib/cniblocks/pods/etcd.json",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	self, err := s.Acquire(ctx, peer.Peer{Name: "a", Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11")}}})
	if err != nil {
		log.Print(err) // the network is full: ...
		return
	}
	self.Encap, self.V4.VNI, self.V4.MAC = "vxlan", 1, inet.MAC{0x0a, 0x58, 10, 244, 1, 2}
	if err := s.Publish(ctx, self.Reach); err != nil {
		log.Print(err)
		return
	}
	go func() { log.Print(s.Lost(ctx)) }()
	for peers, err := range s.Watch(ctx) {
		log.Print(len(peers), err)
	}
}
