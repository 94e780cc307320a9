//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

// Addresses of documentation (RFC 5737, RFC 3849) between the node and the outside.
var (
	nodeAddrs    = prefixes("192.0.2.1/24", "2001:db8::1/64")
	outsideAddrs = prefixes("192.0.2.2/24", "2001:db8::2/64")
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// world is the node, which is the namespace of this process, and the outside, which has no way back to pods.
type world struct{ node, outside *netns.NS }

func newWorld(ctx context.Context) (w world, err error) {
	if w.node, err = netns.Current(); err != nil {
		return w, err
	}
	if w.outside, err = netns.Create("outside"); err != nil {
		return w, err
	}
	pair, err := veth.Create(ctx, veth.Pair{Host: veth.End{NS: w.node, Name: "uplink"}, Pod: veth.End{NS: w.outside, Name: "eth0"}})
	if err != nil {
		return w, err
	}
	for _, end := range []struct {
		veth.End
		addrs []netip.Prefix
	}{{pair.Host, nodeAddrs}, {pair.Pod, outsideAddrs}} {
		// Without a wait for duplicate address detection.
		if err := sysctl.Ensure(end.NS, sysctl.Var{Key: "net/ipv6/conf/" + end.Name + "/accept_dad", Value: "0"}); err != nil {
			return w, err
		}
		if err := addAll(ctx, end.End, end.addrs); err != nil {
			return w, err
		}
	}
	err = first(
		func() error { return up(w.outside, "lo") },
		func() error { return up(w.node, "lo") },
		func() error { return up(w.outside, "eth0") },
		func() error { return carrier(w.node, "uplink") },
		func() error { return carrier(w.outside, "eth0") },
		func() error {
			return route.Table{NS: w.node, Proto: unix.RTPROT_STATIC}.Reconcile(ctx, func(yield func(route.Route) bool) {
				for _, p := range outsideAddrs {
					all := netip.PrefixFrom(p.Addr(), 0).Masked()
					if !yield(route.Route{Dst: all, Via: p.Addr(), Link: "uplink"}) {
						return
					}
				}
			})
		})
	return w, err
}

func (w world) close() {
	for _, ns := range []*netns.NS{w.node, w.outside} {
		if ns != nil {
			ns.Close()
		}
	}
}

func addAll(ctx context.Context, end veth.End, prefixes []netip.Prefix) error {
	var adds []link.Change
	for _, p := range prefixes {
		adds = append(adds, addr.Add(end.Index, p))
	}
	return link.Apply(ctx, end.NS, adds...)
}

func up(ns *netns.NS, name string) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	return c.Do(rtnl.SetLink(rtnl.Set{Name: name, Up: true}))
}

// carrier asks for a link, which makes the kernel see at once that the other end is up.
func carrier(ns *netns.NS, name string) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	_, err = c.LinkByName(name)
	return err
}

// needKernel says what the kernel lacks, and how to get it. It tries in a namespace of its own.
func needKernel(ctx context.Context) error {
	const remedy = "load them with 'modprobe bridge veth', or install the package that has them, such as linux-modules-extra or linux-image-amd64"
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	err = c.Do(rtnl.NewBridge(rtnl.Bridge{Name: "probe"}))
	if err == nil {
		_, err = veth.Create(ctx, veth.Pair{Host: veth.End{NS: ns, Name: "a"}, Pod: veth.End{NS: ns, Name: "b"}})
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no bridges or no veth pairs (%w): %s", err, remedy)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat("/proc/net/if_inet6"); errors.Is(err, fs.ErrNotExist) {
		return errors.New("this kernel runs without IPv6: boot it without ipv6.disable=1")
	}
	if _, err := masq.Open(ctx, ns, "nftables"); err != nil {
		return fmt.Errorf("%w\nOn Debian and Ubuntu they come with linux-image-amd64 or linux-modules-extra-$(uname -r)", err)
	}
	return nil
}
