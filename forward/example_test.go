//go:build linux

package forward_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/netns"
)

func ExamplePassage() {
	ctx := context.Background()
	node, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()

	// Where no FORWARD policy drops, nothing is made.
	pods := []inet.Range{inet.RangeOf(netip.MustParsePrefix("10.1.0.0/24"))}
	way := forward.Passage{NS: node}
	fmt.Println(way.Ensure(ctx, "pods", pods), way.Check(ctx, "pods", pods))
	// Output: <nil> <nil>
}
