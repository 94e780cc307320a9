//go:build linux

package route_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
)

func ExampleTable() {
	ctx := context.Background()
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	if _, err := bridge.Ensure(ctx, ns, bridge.Bridge{Name: "br0"}); err != nil {
		fmt.Println(err)
		return
	}
	table := route.Table{NS: ns}
	want := []route.Route{{Dst: netip.MustParsePrefix("10.1.0.0/16"), Link: "br0"}, {Dst: netip.MustParsePrefix("2001:db8:1::/48"), Link: "br0"}}
	fmt.Println(table.Reconcile(ctx, slices.Values(want)))
	fmt.Println(table.Check(ctx, slices.Values(want)))
	fmt.Println(table.Reconcile(ctx, slices.Values(want[:1]))) // the other one goes
	list, err := table.List(ctx)
	for _, r := range list {
		fmt.Println(r.Dst, r.Link, err)
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// 10.1.0.0/16 br0 <nil>
}

func ExampleAdd() {
	ctx := context.Background()
	pod, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pod.Close()
	eth0, err := bridge.Ensure(ctx, pod, bridge.Bridge{Name: "eth0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	gateway := netip.MustParseAddr("169.254.1.1")
	routes := []route.Route{
		{Dst: netip.PrefixFrom(gateway, 32)},
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, OnLink: true},
	}
	fmt.Println(link.Apply(ctx, pod, addr.Add(eth0.Index, netip.MustParsePrefix("10.1.2.3/32")),
		route.Add(eth0.Index, routes[0]), route.Add(eth0.Index, routes[1])))
	fmt.Println(route.CheckLink(ctx, pod, "eth0", routes...))
	// Output:
	// <nil>
	// <nil>
}
