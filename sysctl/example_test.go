//go:build linux

package sysctl_test

import (
	"fmt"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

func ExampleEnsure() {
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	fmt.Println(sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv4/conf/all/rp_filter", Value: "2"}))
	fmt.Println(sysctl.Get(ns, "net/ipv4/conf/all/rp_filter"))
	// Output:
	// <nil>
	// 2 <nil>
}
