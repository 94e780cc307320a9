//go:build linux

package addr_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/addr"
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
	service := netip.MustParsePrefix("192.0.2.53/32")
	fmt.Println(addr.Check(ctx, ns, "lo", service))
	fmt.Println(addr.Ensure(ctx, ns, "lo", service))
	fmt.Println(addr.Check(ctx, ns, "lo", service))
	// Output:
	// address 192.0.2.53/32 is missing on lo, which has []
	// <nil>
	// <nil>
}
