//go:build linux

package masq

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

// world is a pod behind a node, and an outside host that has no route to the pod: only masqueraded packets are answered.
type world struct{ pod, node, outside *netns.NS }

const (
	podNet4, podNet6 = "10.1.0.0/24", "fd00:1::/64"
)

var (
	pod4, pod6         = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")
	uplink4, uplink6   = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	outside4, outside6 = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")
)

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{nstest.New(t), nstest.New(t), nstest.New(t)}
	nstest.Link(t, nstest.End{NS: w.pod, Name: "eth0", Addrs: []string{"10.1.0.2/24", "fd00:1::2/64"}},
		nstest.End{NS: w.node, Name: "pod0", Addrs: []string{"10.1.0.1/24", "fd00:1::1/64"}})
	nstest.Link(t, nstest.End{NS: w.node, Name: "uplink", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		nstest.End{NS: w.outside, Name: "eth0", Addrs: []string{"192.0.2.9/24", "2001:db8::9/64"}})
	nstest.Forward(t, w.node)
	nstest.AddRoute(t, w.pod, "default", "10.1.0.1")
	nstest.AddRoute(t, w.pod, "default", "fd00:1::1")
	for _, to := range []netip.Addr{outside4, outside6} { // a new link takes a while to resolve neighbours
		require.NoError(t, nstest.Ping(t.Context(), w.node, to, ping.Options{}))
	}
	for _, to := range []string{"10.1.0.1", "fd00:1::1"} {
		require.NoError(t, nstest.Ping(t.Context(), w.pod, netip.MustParseAddr(to), ping.Options{}))
	}
	return w
}

// seenFrom is the address that the outside host sees when the pod connects to it, invalid if nothing arrives.
func (w world) seenFrom(t testing.TB, to netip.Addr) netip.Addr {
	t.Helper()
	l := nstest.Listen(t, w.outside, netip.AddrPortFrom(to, 0))
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c, err := nstest.Dial(ctx, w.pod, netip.AddrPortFrom(to, uint16(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return netip.Addr{}
	}
	defer c.Close()
	in, err := l.Accept()
	require.NoError(t, err)
	defer in.Close()
	return in.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
}

func rng(first, last string) inet.Range {
	return inet.Range{Start: netip.MustParseAddr(first), End: netip.MustParseAddr(last)}
}

// dual is a policy for the pod of a world.
func dual(network string) Policy {
	return Policy{
		Network: network,
		Sources: []inet.Range{rng("10.1.0.2", "10.1.0.254"), rng("fd00:1::2", "fd00:1::ffff")},
		Except:  []netip.Prefix{netip.MustParsePrefix(podNet4), netip.MustParsePrefix(podNet6)},
	}
}

// handles lists the handles of the rules in the table, which change when rules are made anew.
func handles(t testing.TB, ns *netns.NS) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(nstest.Run(t, ns, "nft", "-a", "-s", "list", "table", "inet", "cniblocks")) {
		if strings.Contains(line, "masquerade") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// nsPath opens the namespace once more.
func nsPath(ns *netns.NS) string { return fmt.Sprintf("/proc/self/fd/%d", ns.Fd()) }
