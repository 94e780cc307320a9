//go:build linux

package veth_test

import (
	"context"
	"fmt"

	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

func ExampleCreate() {
	ctx := context.Background()
	node, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()
	pod, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pod.Close()

	pair, err := veth.Create(ctx, veth.Pair{
		Host:  veth.End{NS: node, Name: link.HostName("demo", "container-1", "eth0")},
		Pod:   veth.End{NS: pod, Name: "eth0", MTU: 1400},
		Alias: link.Alias("demo", "container-1", "eth0"),
	})
	fmt.Println(pair.Host.Name, err)
	fmt.Println(link.Apply(ctx, pod, link.Up(pair.Pod.Index)))
	pair, err = veth.Check(ctx, pair)
	fmt.Println(pair.Pod.MTU, err)
	fmt.Println(veth.Delete(ctx, node, pair.Host.Name))
	// Output:
	// vethk5nbbvfhynv <nil>
	// <nil>
	// 1400 <nil>
	// <nil>
}

func ExampleAlias() {
	fmt.Println(link.Alias("demo", "container-1", "eth0"))
	// Output: cniblocks/demo/container-1/eth0
}
