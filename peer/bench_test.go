package peer_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// nodes makes a valid dual-stack network of n peers with everything published.
func nodes(n int) peer.Network {
	net := peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00:10::/32")}}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		name := fmt.Sprintf("node-%05d", i)
		net.Peers = append(net.Peers, peer.Peer{
			Name: name,
			Pods: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, hi, lo, 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0, 0, hi, lo}), 64),
			},
			Reach: peer.Reach{
				V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{172, 16, hi, lo}), MAC: peer.DeriveMAC("pods", name, inet.IPv4)},
				V6: peer.Endpoint{Addr: netip.AddrFrom16([16]byte{0xfd, 1, 14: hi, 15: lo}), MAC: peer.DeriveMAC("pods", name, inet.IPv6)},
			},
		})
	}
	return net
}

func BenchmarkParse10000(b *testing.B) {
	doc := peer.Format(nodes(10_000))
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		n, problems, err := peer.Parse(doc)
		require.NoError(b, err)
		require.Empty(b, problems)
		require.Len(b, n.Peers, 10_000)
	}
}

func BenchmarkSift10000(b *testing.B) {
	net := nodes(10_000)
	b.ReportAllocs()
	for b.Loop() {
		_, problems, err := net.Sift()
		require.NoError(b, err)
		require.Empty(b, problems)
	}
}

func BenchmarkDigest10000(b *testing.B) {
	net := nodes(10_000)
	for b.Loop() {
		peer.Digest(net.Peers)
	}
}

func BenchmarkKeys10000(b *testing.B) {
	net := nodes(10_000)
	for b.Loop() {
		set := make(map[peer.Key]bool, len(net.Peers))
		for _, p := range net.Peers {
			set[p.Key()] = true
		}
		require.Len(b, set, 10_000)
	}
}

func BenchmarkFormat10000(b *testing.B) {
	net := nodes(10_000)
	for b.Loop() {
		peer.Format(net)
	}
}
