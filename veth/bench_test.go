//go:build linux

package veth_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/veth"
)

func BenchmarkCreate(b *testing.B) {
	node, pod := nstest.New(b), nstest.New(b)
	for b.Loop() {
		_, err := veth.Create(b.Context(), veth.Pair{Host: veth.End{NS: node, Name: "veth1"}, Pod: veth.End{NS: pod, Name: "eth0"}})
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, veth.Delete(b.Context(), node, "veth1"))
		b.StartTimer()
	}
}

// BenchmarkCreateByAnotherLibrary makes the same pair by the library that most plugins use.
func BenchmarkCreateByAnotherLibrary(b *testing.B) {
	node, pod := nstest.New(b), nstest.New(b)
	h := nstest.Netlink(b, node)
	for b.Loop() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = "veth1", 1, 1
		require.NoError(b, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.Fd())}))
		l, err := h.LinkByName("veth1")
		require.NoError(b, err)
		require.NoError(b, h.LinkSetUp(l))
		b.StopTimer()
		require.NoError(b, h.LinkDel(l))
		b.StartTimer()
	}
}

func BenchmarkCheck(b *testing.B) {
	node, pod := nstest.New(b), nstest.New(b)
	pair, err := veth.Create(b.Context(), veth.Pair{Host: veth.End{NS: node, Name: "veth1"}, Pod: veth.End{NS: pod, Name: "eth0"}})
	require.NoError(b, err)
	nstest.SetUp(b, pod, "eth0")
	for b.Loop() {
		_, err := veth.Check(b.Context(), pair)
		require.NoError(b, err)
	}
}
