//go:build linux

package rtnl

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
)

// FuzzParse feeds the decoders: whatever arrives, they end without a panic.
func FuzzParse(f *testing.F) {
	dst := netip.MustParsePrefix("198.51.100.0/24")
	for _, m := range []*Msg{
		NewBridge(Bridge{Name: "br0", MTU: 1400, VLANFiltering: true}),
		NewVeth(End{Name: "a"}, End{Name: "b"}, 3, 4, func(Link) {}),
		SetLink(Set{Index: 3, Alias: "x", Port: []PortFlag{{Hairpin, true}}}),
		NewAddr(Addr{Link: 3, Prefix: netip.MustParsePrefix("2001:db8::1/64"), Flags: 0x202, Proto: 117}),
		NewRoute(Route{Dst: dst, Via: netip.MustParseAddr("fe80::1"), Link: 3, MTU: 1400, Encap: Encap{ID: 7, Dst: netip.MustParseAddr("192.0.2.1")}}),
		AddVLANs(3, false, VLAN{ID: 7, PVID: true}),
		NewTunnel("vx", inet.MAC{2}, 1400, VXLAN{VNI: 7, Local: netip.MustParseAddr("192.0.2.1")}),
	} {
		f.Add(m.Bytes()[headerLen:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := parseLink(b)
		l.Tunnel()
		l.Bridge()
		for _, kind := range []string{"vxlan", "geneve", "gre", "ip6gre", "ipip", "sit", "ip6tnl", "bridge"} {
			Link{Kind: kind, Data: string(b)}.Tunnel()
		}
		Link{Data: string(b)}.Bridge()
		if a, ok := parseAddr(b); ok {
			require.True(t, a.Prefix.IsValid())
		}
		if r, ok := parseRoute(b); ok {
			require.True(t, r.Dst.IsValid())
			require.NotEmpty(t, r.String())
		}
		n := 0
		for _, v := range attrs(b) {
			n += 4 + len(v)
		}
		require.LessOrEqual(t, n, len(b))
		parseVLANs(b)
		_ = cstring(b)
	})
}
