//go:build linux

package addr_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

func ExampleAdd() {
	ctx := context.Background()
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	service := netip.MustParsePrefix("192.0.2.53/32")
	fmt.Println(addr.Check(ctx, ns, "lo", service))
	lo, err := link.Get(ctx, ns, "lo")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(link.Apply(ctx, ns, link.Up(lo.Index), addr.Add(lo.Index, service)))
	fmt.Println(addr.Check(ctx, ns, "lo", service))
	// Output:
	// address 192.0.2.53/32 is missing on lo, which has []
	// <nil>
	// <nil>
}
