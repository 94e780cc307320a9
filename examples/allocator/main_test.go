//go:build linux

package main

import (
	"context"
	"os"

	"github.com/cniblocks/cniblocks/ipam"
)

func Example() {
	data, err := os.MkdirTemp("", "leases")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(data)
	a := ipam.Allocator{Dir: ipam.Dir{DataDir: data, Network: "pods"}}
	for _, args := range [][]string{{"lease", "vm-1"}, {"lease", "vm-2"}, {"release", "vm-1"}, {"list"}, {"free"}} {
		if err := run(context.Background(), os.Stdout, a, []string{"10.22.0.0/29", "fd00:22::/124"}, args); err != nil {
			panic(err)
		}
	}
	// Output:
	// 10.22.0.2/29 via 10.22.0.1
	// fd00:22::2/124 via fd00:22::1
	// 10.22.0.3/29 via 10.22.0.1
	// fd00:22::3/124 via fd00:22::1
	// 10.22.0.3	container "vm-2", interface "tap0"
	// fd00:22::3	container "vm-2", interface "tap0"
	// [4 13]
}
