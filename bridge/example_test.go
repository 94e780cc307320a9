//go:build linux

package bridge_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/netns"
)

func ExampleEnsure() {
	ctx := context.Background()
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	for range 2 {
		br, err := bridge.Ensure(ctx, ns, bridge.Bridge{Name: "demo0", MTU: 1450})
		fmt.Println(br.Name, br.MTU, br.New, err)
	}
	br, err := bridge.Get(ctx, ns, "demo0")
	fmt.Println(br.Up, err)
	d := bridge.Gateways{NS: ns, Index: br.Index, Name: br.Name}
	added, err := d.Ensure(ctx, false, bridge.GatewayAt(netip.MustParsePrefix("10.88.0.1/24")))
	fmt.Println(added, err)
	far := bridge.Gateway{Addr: netip.MustParseAddr("169.254.1.1"), Subnet: netip.MustParsePrefix("10.88.0.0/24")}
	added, err = d.Ensure(ctx, false, far) // of the former one no pod made use
	fmt.Println(added, err)
	// Output:
	// demo0 1450 true <nil>
	// demo0 1450 false <nil>
	// true <nil>
	// [10.88.0.1/24] <nil>
	// [169.254.1.1/32] <nil>
}
