//go:build linux

package overlay_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// many are peers whose endpoints are all on one link, with an IPv4 range each.
func many(n int) []peer.Peer {
	all := make([]peer.Peer, n)
	for i := range all {
		all[i] = peer.Peer{
			Name:  fmt.Sprintf("node-%05d", i),
			Pods:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)},
			Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}},
		}
	}
	return all
}

// benchSelf is the node that has many peers.
var benchSelf = peer.Peer{Name: "self", Pods: []netip.Prefix{netip.MustParsePrefix("11.255.0.0/24")},
	Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("172.16.255.254")}}}

func benchNode(b *testing.B, e overlay.Encap) *overlay.Node {
	b.Helper()
	ns, wire := nstest.New(b), nstest.New(b)
	nstest.Link(b, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"172.16.255.254/16"}}, nstest.End{NS: wire, Name: "eth0"})
	n, err := overlay.New(overlay.Options{NS: ns, Network: "bench", Node: benchSelf, StateDir: b.TempDir(),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}}, e)
	require.NoError(b, err)
	return n
}

func benchmarks(b *testing.B, f func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64)) {
	for _, e := range []overlay.Encap{overlay.VXLAN{}, overlay.VXLAN{GPE: true}, overlay.Direct{}} {
		for _, n := range []int{1000, 10000} {
			name := e.Name()
			if v, ok := e.(overlay.VXLAN); ok && v.GPE {
				name = "vxlan-gpe"
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				spent := 0.0
				f(b, e, many(n), &spent)
				b.ReportMetric(spent/float64(b.N)*1e3, "cpu-ms/op")
			})
		}
	}
}

func BenchmarkSetFromEmpty(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		for b.Loop() {
			*spent -= cpu()
			require.NoError(b, n.Set(b.Context(), peers))
			*spent += cpu()
			b.StopTimer()
			require.NoError(b, n.Close(b.Context()))
			b.StartTimer()
		}
	})
}

func BenchmarkSetOneChange(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		require.NoError(b, n.Set(b.Context(), peers))
		for i := 0; b.Loop(); i++ {
			peers[len(peers)/2].V4.Addr = netip.AddrFrom4([4]byte{172, 16, 200, byte(i)})
			*spent -= cpu()
			require.NoError(b, n.Set(b.Context(), peers))
			*spent += cpu()
		}
	})
}

func BenchmarkRepairNoDifference(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		require.NoError(b, n.Set(b.Context(), peers))
		for b.Loop() {
			*spent -= cpu()
			require.NoError(b, n.Repair(b.Context()))
			*spent += cpu()
		}
	})
}

func BenchmarkCheckNoDifference(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		require.NoError(b, n.Set(b.Context(), peers))
		for b.Loop() {
			*spent -= cpu()
			require.NoError(b, n.Check(b.Context()))
			*spent += cpu()
		}
	})
}

func BenchmarkSetSameInNewProcess(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		require.NoError(b, n.Set(b.Context(), peers))
		for b.Loop() {
			*spent -= cpu()
			n.Want(peers)
			require.NoError(b, n.Repair(b.Context()))
			*spent += cpu()
		}
	})
}

// cpu is the time in seconds that this process has had on a processor, which other programs disturb less than the clock.
// test/bench counts the system calls from one look at it to the next.
func cpu() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func BenchmarkApplyWithAStamp(b *testing.B) {
	benchmarks(b, func(b *testing.B, e overlay.Encap, peers []peer.Peer, spent *float64) {
		n := benchNode(b, e)
		load := func() ([]peer.Peer, error) { return peers, nil }
		_, err := n.Apply(b.Context(), "1", load)
		require.NoError(b, err)
		for b.Loop() {
			*spent -= cpu()
			_, err := n.Apply(b.Context(), "1", load)
			require.NoError(b, err)
			*spent += cpu()
		}
	})
}
