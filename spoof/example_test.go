//go:build linux

package spoof_test

import (
	"context"
	"fmt"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/spoof"
)

func Example() {
	ctx := context.Background()
	node, err := netns.New() // a scratch namespace that plays the node
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()

	port := spoof.Port{Name: "veth1", MAC: [6]byte{0x0a, 0x58, 10, 1, 0, 2}, Owner: "cniblocks/pods/c1/eth0"}
	if err := spoof.Allow(ctx, node, port); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(spoof.Check(ctx, node, port))
	fmt.Println(spoof.Revoke(ctx, node, "veth1"), spoof.Check(ctx, node, port) != nil)
	// Output:
	// <nil>
	// <nil> true
}
