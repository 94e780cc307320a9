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
	added, err := bridge.Gateways(ctx, ns, br.Index, br.Name, false, netip.MustParsePrefix("10.88.0.1/24"))
	fmt.Println(added, err)
	_, err = bridge.Gateways(ctx, ns, br.Index, br.Name, false, netip.MustParsePrefix("10.88.0.254/24"))
	fmt.Println(err)
	// Output:
	// demo0 1450 true <nil>
	// demo0 1450 false <nil>
	// true <nil>
	// true <nil>
	// demo0 has the address 10.88.0.1/24, which is in the way of 10.88.0.254/24: remove it, or set "forceAddress": true (address conflict)
}
