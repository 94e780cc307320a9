//go:build linux

package masq_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
)

// The pods of a network reach the outside by the address of the node, over both families. The same call in the ADD of
// every pod writes nothing once the rule stands.
func Example() {
	ctx := context.Background()
	node, err := netns.New() // a scratch namespace that plays the node
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()

	policy := masq.Policy{
		Network: "pods",
		Sources: []inet.Range{
			{Start: netip.MustParseAddr("10.1.0.2"), End: netip.MustParseAddr("10.1.0.254")},
			inet.RangeOf(netip.MustParsePrefix("fd00:1::/64")),
		},
		Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")},
	}
	backend, err := masq.Ensure(ctx, node, "nftables", policy)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(backend.Name(), backend.Check(ctx, policy))

	list, err := backend.List(ctx)
	fmt.Println(list[0].Network, list[0].Sources, list[0].Except, err)

	fmt.Println(masq.RemoveAll(ctx, node, "pods"), backend.Check(ctx, policy) != nil)
	// Output:
	// nftables <nil>
	// pods [10.1.0.2-10.1.0.254 fd00:1::-fd00:1::ffff:ffff:ffff:ffff] [10.1.0.0/24 fd00:1::/64] <nil>
	// <nil> true
}
