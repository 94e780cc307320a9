package file_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

func ExampleSource() {
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "peers.json")
	n := peer.Network{Peers: []peer.Peer{{
		Name:  "a",
		Pods:  []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11")}},
	}}}
	if err := file.Write(path, n); err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for peers, err := range (file.Source{Path: path}).Watch(ctx) {
		if err != nil {
			fmt.Println(err) // a report; the list holds all the same
		}
		fmt.Println(len(peers), "peers")
		if len(peers) == 0 {
			cancel() // enough
			continue
		}
		if err := file.Write(path, peer.Network{}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 1 peers
	// 0 peers
}

// A plugin that remembers what it has applied need not read the file again.
func ExampleID_Same() {
	f, err := os.CreateTemp("", "peers")
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Close()
	defer os.Remove(f.Name())
	stamp, err := file.Identify(f.Name())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, same, _ := stamp.Same(f.Name())
	fmt.Println(same)
	_ = file.Write(f.Name(), peer.Network{})
	_, same, _ = stamp.Same(f.Name())
	fmt.Println(same)
	// Output:
	// true
	// false
}
