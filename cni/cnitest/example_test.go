//go:build linux

package cnitest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
)

// A plugin of one's own that asks an IPAM plugin for addresses, without a kernel: see [cnitest.Table] for one with.
func Example() {
	ipam := &cnitest.IPAM{Leases: []string{"10.1.0.2/24 via 10.1.0.1"}}
	r, err := cnitest.Request{
		Verb:    cni.STATUS,
		Config:  `{"name": "net", "type": "mine", "ipam": {"type": "fake"}}`,
		Version: "1.1.0",
	}.Build(cni.Delegates{"fake": ipam})
	if err != nil {
		fmt.Println(err)
		return
	}
	delegate, err := r.IPAM()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(delegate.Status(context.Background(), r), len(ipam.Calls()))
	// Output: <nil> 1
}

// In a test: the file says what each netconf makes of the node, and "go test -update" writes it.
func ExampleTable() {
	_ = func(t *testing.T) {
		cnitest.Table{Plugin: plugin{}}.Run(t, "testdata/table.txt")
	}
}
