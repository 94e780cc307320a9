//go:build linux

// Package lab is where tests have machines: namespaces on one link, and a node with a way out.
package lab

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// Wire is a link for any number of machines, a bridge in a namespace of its own.
type Wire struct {
	NS *netns.NS

	t  testing.TB
	h  *netlink.Handle
	br netlink.Link
}

// NewWire makes a link that nobody is on.
func NewWire(t testing.TB) *Wire {
	t.Helper()
	w := &Wire{NS: nstest.New(t), t: t}
	w.h = nstest.Netlink(t, w.NS)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wire"
	off := false
	require.NoError(t, w.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}))
	var err error
	w.br, err = w.h.LinkByName("wire")
	require.NoError(t, err)
	require.NoError(t, w.h.LinkSetUp(w.br))
	return w
}

// Join puts a namespace on the link, by a port of that name: it has eth0 with the addresses 192.0.2.LAST/24 and
// 2001:db8::LAST/64.
func (w *Wire) Join(ns *netns.NS, port string, last int) {
	w.t.Helper()
	n := strconv.Itoa(last)
	nstest.Sysctl(w.t, ns, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(w.t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2." + n + "/24", "2001:db8::" + n + "/64"}},
		nstest.End{NS: w.NS, Name: port})
	l, err := w.h.LinkByName(port)
	require.NoError(w.t, err)
	require.NoError(w.t, w.h.LinkSetMaster(l, w.br))
}

// Node makes a node that has uplink, with the addresses 192.0.2.LAST/24 and 2001:db8::LAST/64, and at its other end an
// outside, with 192.0.2.2 and 2001:db8::2, that knows no way back to pods.
func Node(t testing.TB, node *netns.NS, last int) (outside *netns.NS) {
	t.Helper()
	n := strconv.Itoa(last)
	outside = nstest.New(t)
	nstest.Sysctl(t, node, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(t, nstest.End{NS: node, Name: "uplink", Addrs: []string{"192.0.2." + n + "/24", "2001:db8::" + n + "/64"}},
		nstest.End{NS: outside, Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	return outside
}
