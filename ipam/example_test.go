//go:build linux

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cniblocks/cniblocks/ipam"
)

// A pod gets one address of each family, and gives both back.
func Example() {
	data, err := os.MkdirTemp("", "leases")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(data)

	ctx := context.Background()
	blue := ipam.Allocator{
		Dir: ipam.Dir{DataDir: data, Network: "blue"},
		Pools: []ipam.Pool{
			{{Subnet: netip.MustParsePrefix("10.22.0.0/16")}},
			{{Subnet: netip.MustParsePrefix("fd00:22::/64"), Start: netip.MustParseAddr("fd00:22::100")}},
		},
	}
	pod := ipam.Owner{ContainerID: "4f1c", IfName: "eth0"}
	leases, err := blue.Allocate(ctx, pod)
	if err != nil {
		panic(err)
	}
	for _, l := range leases {
		fmt.Println(l.Addr, "through", l.Gateway)
	}

	_, err = blue.Allocate(ctx, ipam.Owner{ContainerID: "77aa", IfName: "eth0"}, netip.MustParseAddr("10.22.0.2"))
	fmt.Println(errors.Is(err, ipam.ErrTaken), err)

	fmt.Println(blue.Release(ctx, pod))
	// Output:
	// 10.22.0.2/16 through 10.22.0.1
	// fd00:22::100/64 through fd00:22::1
	// true lease for container "77aa", interface "eth0" in network blue: 10.22.0.2: address is taken by container "4f1c", interface "eth0"
	// <nil>
}

// After a range left the configuration its leases can still be released: that is a matter of the directory.
func ExampleDir_Retain() {
	data, err := os.MkdirTemp("", "leases")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(data)

	ctx := context.Background()
	dir := ipam.Dir{DataDir: data, Network: "blue"}
	a := ipam.Allocator{Dir: dir, Pools: []ipam.Pool{{{Subnet: netip.MustParsePrefix("10.22.0.0/29")}}}}
	for _, id := range []string{"a", "b", "c"} {
		if _, err := a.Allocate(ctx, ipam.Owner{ContainerID: id, IfName: "eth0"}); err != nil {
			panic(err)
		}
	}
	running := func(yield func(ipam.Owner) bool) { yield(ipam.Owner{ContainerID: "b", IfName: "eth0"}) }
	if err := dir.Retain(ctx, running); err != nil {
		panic(err)
	}
	left, err := dir.Leases(ctx)
	fmt.Println(left[0].Addr, left[0].Owner, len(left), err)
	// Output: 10.22.0.3 container "b", interface "eth0" 1 <nil>
}
