//go:build linux

package node_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

func ExampleRead() {
	ns, err := netns.Current()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(node.Dir(dir, "pods"), "node.json")
	_, err = node.Read(ns, path)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	network, _, err := peer.Parse([]byte(`{"peers": [{"name": "a", "endpoint": "192.0.2.11", "pods": ["10.244.1.0/24"]}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(node.Write(ns, path, node.File{Self: network.Peers[0], MTU: 1450}))
	f, err := node.Read(ns, path)
	fmt.Println(f.Self.Name, f.Self.Pods, f.MTU, err)
	// Output:
	// true
	// <nil>
	// a [10.244.1.0/24] 1450 <nil>
}
