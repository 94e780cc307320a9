//go:build linux

// Program allocator gives addresses to virtual machines out of the ranges of a pod network, from the same directory as
// the CNI plugin host-local, so that neither hands out what the other has.
//
//	allocator lease vm-1      prints the addresses of vm-1
//	allocator release vm-1
//	allocator list            who has what, pods included
//	allocator free            how many addresses are left in each range
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"

	"github.com/cniblocks/cniblocks/ipam"
)

func main() {
	data := flag.String("data", ipam.DefaultDataDir, "directory of the leases of all networks")
	network := flag.String("network", "pods", "name of the network")
	subnet4 := flag.String("subnet4", "10.22.0.0/16", "IPv4 subnet")
	subnet6 := flag.String("subnet6", "fd00:22::/64", "IPv6 subnet")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a := ipam.Allocator{Dir: ipam.Dir{DataDir: *data, Network: *network}}
	err := run(ctx, os.Stdout, a, []string{*subnet4, *subnet6}, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "allocator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, a ipam.Allocator, subnets, args []string) error {
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("subnet: %w", err)
		}
		a.Pools = append(a.Pools, ipam.Pool{{Subnet: p}})
	}
	verb, vm := "", ipam.Owner{IfName: "tap0"}
	if len(args) > 0 {
		verb = args[0]
	}
	if len(args) > 1 {
		vm.ContainerID = args[1]
	}
	switch verb {
	case "lease":
		leases, err := a.Allocate(ctx, vm)
		if errors.Is(err, ipam.ErrExhausted) {
			return fmt.Errorf("try again when a machine or a pod is gone: %w", err)
		}
		for _, l := range leases {
			fmt.Fprintln(out, l.Addr, "via", l.Gateway)
		}
		return err
	case "release":
		return a.Release(ctx, vm)
	case "list":
		held, err := a.Leases(ctx)
		for _, h := range held {
			fmt.Fprintf(out, "%s\t%s\n", h.Addr, h.Owner)
		}
		return err
	case "free":
		n, err := a.Available(ctx)
		fmt.Fprintln(out, n)
		return err
	}
	return fmt.Errorf("verb %q: want lease, release, list or free", verb)
}
