//go:build linux

// Package nstest gives tests a world of their own: scratch network namespaces, pairs of links between them, traffic,
// a text dump to compare, and a TestMain that fails when something leaked.
//
// It uses vishvananda/netlink directly, as an opinion that is independent of what it tests.
package nstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

// Prefix begins the name of every namespace that tests pin; what carries it after the tests has leaked.
const Prefix = "cnibtest-"

// own is the prefix of this process alone.
var own = func() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return Prefix + hex.EncodeToString(b) + "-"
}()

var serial atomic.Uint64

// New makes a namespace with lo up. It is closed at the end of the test.
func New(t testing.TB) *netns.NS {
	t.Helper()
	NeedRoot(t)
	ns, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	upLo(t, ns)
	return ns
}

// Named makes a namespace with lo up, pinned under [netns.Dir] where other programs find it. It is removed and closed at
// the end of the test.
func Named(t testing.TB) (name string, ns *netns.NS) {
	t.Helper()
	NeedRoot(t)
	name = own + strconv.FormatUint(serial.Add(1), 10)
	ns, err := netns.Create(name)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, ns.Close())
		if err := netns.Remove(name); !errors.Is(err, unix.ENOENT) { // the test may have removed it
			require.NoError(t, err)
		}
	})
	upLo(t, ns)
	return name, ns
}

func upLo(t testing.TB, ns *netns.NS) {
	t.Helper()
	h := Netlink(t, ns)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(lo))
}

// Netlink opens a vishvananda/netlink handle in the namespace, for what this package has no word for. It is closed at the
// end of the test.
func Netlink(t testing.TB, ns *netns.NS) *netlink.Handle {
	t.Helper()
	h, err := handle(ns)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

func handle(ns *netns.NS) (h *netlink.Handle, err error) {
	err = ns.Do(func() error {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, err
}

// End is one end of a [Link].
type End struct {
	NS    *netns.NS
	Name  string
	Addrs []string // prefixes such as 192.0.2.1/24 or 2001:db8::1/64, usable at once
	MTU   int      // in bytes; 0 is the kernel's default
}

// Link makes a veth pair between two namespaces, both ends up.
func Link(t testing.TB, a, b End) {
	t.Helper()
	ha, hb := Netlink(t, a.NS), Netlink(t, b.NS)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Name, a.MTU
	require.NoError(t, ha.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: b.Name, PeerMTU: uint32(b.MTU), PeerNamespace: netlink.NsFd(b.NS.Fd()),
	}), "veth %s to %s", a.Name, b.Name)
	setUp(t, ha, a)
	setUp(t, hb, b)
	// The end that was up first sends nothing until the kernel's link watch has run, which may take a second; being asked
	// for the link makes it run.
	for h, name := range map[*netlink.Handle]string{ha: a.Name, hb: b.Name} {
		_, err := h.LinkByName(name)
		require.NoError(t, err)
	}
}

func setUp(t testing.TB, h *netlink.Handle, e End) {
	t.Helper()
	l, err := h.LinkByName(e.Name)
	require.NoError(t, err)
	Sysctl(t, e.NS, "net/ipv6/conf/"+e.Name+"/accept_dad", "0") // the link-local address, too, is there at once
	require.NoError(t, h.LinkSetUp(l))
	addAddrs(t, h, l, e.Addrs)
}

// AddAddrs gives a link addresses that are usable at once, without a wait for duplicate address detection.
func AddAddrs(t testing.TB, ns *netns.NS, link string, addrs ...string) {
	t.Helper()
	h := Netlink(t, ns)
	l, err := h.LinkByName(link)
	require.NoError(t, err)
	addAddrs(t, h, l, addrs)
}

func addAddrs(t testing.TB, h *netlink.Handle, l netlink.Link, addrs []string) {
	t.Helper()
	for _, s := range addrs {
		p := netip.MustParsePrefix(s)
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		require.NoError(t, h.AddrAdd(l, a), "address %s of %s", s, l.Attrs().Name)
	}
}

// SetUp sets a link up.
func SetUp(t testing.TB, ns *netns.NS, name string) {
	t.Helper()
	h := Netlink(t, ns)
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(l))
}

// AddRoute adds a route through a next hop that a link of the namespace reaches. "default" stands for both families'
// default route, by that of the next hop.
func AddRoute(t testing.TB, ns *netns.NS, dst, via string) {
	t.Helper()
	gw := netip.MustParseAddr(via)
	r := &netlink.Route{Gw: gw.AsSlice()}
	if dst == "default" {
		r.Dst = ipNet(netip.PrefixFrom(gw, 0).Masked())
	} else {
		r.Dst = ipNet(netip.MustParsePrefix(dst))
	}
	require.NoError(t, Netlink(t, ns).RouteAdd(r), "route %s via %s", dst, via)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Ping is [ping.Echo].
func Ping(ctx context.Context, ns *netns.NS, to netip.Addr, o ping.Options) error {
	return ping.Echo(ctx, ns, to, o)
}

// Forward makes the namespace a router for both families.
func Forward(t testing.TB, ns *netns.NS) {
	t.Helper()
	Sysctl(t, ns, "net/ipv4/ip_forward", "1")
	Sysctl(t, ns, "net/ipv6/conf/all/forwarding", "1")
}

// Sysctl writes a file below /proc/sys as the namespace sees it.
func Sysctl(t testing.TB, ns *netns.NS, key, value string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }), "sysctl %s=%s", key, value)
}
