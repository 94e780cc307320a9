// Program quickstart joins two namespaces by a bridge, with the library alone: run it as root, it leaves nothing.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/veth"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	// Namespaces are values; these have no name and end with the program.
	node, err := netns.New()
	if err != nil {
		return err
	}
	defer node.Close()
	br, err := bridge.Ensure(ctx, node, bridge.Bridge{Name: "br0"})
	if err != nil {
		return err
	}
	gateway := netip.MustParsePrefix("10.1.0.1/24")
	if err := link.Apply(ctx, node, addr.Add(br.Index, gateway)); err != nil {
		return err
	}
	for _, address := range []string{"10.1.0.2/24", "10.1.0.3/24"} {
		pod, err := netns.New()
		if err != nil {
			return err
		}
		defer pod.Close()
		if err := attach(ctx, node, pod, br, netip.MustParsePrefix(address), gateway.Addr()); err != nil {
			return err
		}
		fmt.Println("attached a pod with", address)
	}
	return nil
}

// attach makes a pair with one end on the bridge and one in the pod, and gives the pod its address and its way out.
func attach(ctx context.Context, node, pod *netns.NS, br bridge.State, address netip.Prefix, gateway netip.Addr) error {
	pair, err := veth.CreateOn(ctx, veth.Pair{
		Host: veth.End{NS: node, Name: link.HostName("quickstart", address.String(), "eth0")},
		Pod:  veth.End{NS: pod, Name: "eth0"},
	}, br.Index)
	if err != nil {
		return err
	}
	return link.Apply(ctx, pod, link.Up(pair.Pod.Index), addr.Add(pair.Pod.Index, address),
		route.Add(pair.Pod.Index, route.Route{Dst: inet.IPv4.Default(), Via: gateway}))
}
