package peer_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

func prefixes(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range s {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// full is a peer that has published everything.
func full(t testing.TB) peer.Peer {
	t.Helper()
	mac, err := inet.ParseMAC("0a:58:0a:f4:01:02")
	require.NoError(t, err)
	key, err := peer.ParsePublicKey("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
	require.NoError(t, err)
	return peer.Peer{
		Name: "a",
		Pods: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		Reach: peer.Reach{
			Encap: "vxlan",
			V4:    peer.Endpoint{Addr: addr("192.0.2.11"), MAC: mac, PublicKey: key, Port: 4789, VNI: 7},
			V6:    peer.Endpoint{Addr: addr("2001:db8::11"), MAC: mac, PublicKey: key, Port: 4789, VNI: 7},
		},
	}
}

// changes are all ways in which one thing of a peer can differ.
func changes() map[string]func(*peer.Peer) {
	return map[string]func(*peer.Peer){
		"name":          func(p *peer.Peer) { p.Name = "b" },
		"a range":       func(p *peer.Peer) { p.Pods[0] = netip.MustParsePrefix("10.244.2.0/24") },
		"a length":      func(p *peer.Peer) { p.Pods[0] = netip.MustParsePrefix("10.244.1.0/25") },
		"order":         func(p *peer.Peer) { slices.Reverse(p.Pods) },
		"fewer ranges":  func(p *peer.Peer) { p.Pods = p.Pods[:1] },
		"more ranges":   func(p *peer.Peer) { p.Pods = append(p.Pods, netip.MustParsePrefix("10.244.9.0/24")) },
		"encapsulation": func(p *peer.Peer) { p.Encap = "wireguard" },
		"IPv4 address":  func(p *peer.Peer) { p.V4.Addr = addr("192.0.2.12") },
		"IPv6 address":  func(p *peer.Peer) { p.V6.Addr = addr("2001:db8::12") },
		"no IPv6":       func(p *peer.Peer) { p.V6 = peer.Endpoint{} },
		"MAC":           func(p *peer.Peer) { p.V4.MAC[5]++ },
		"key":           func(p *peer.Peer) { p.V6.PublicKey[31]++ },
		"port":          func(p *peer.Peer) { p.V4.Port++ },
		"VNI":           func(p *peer.Peer) { p.V6.VNI++ },
		"other family":  func(p *peer.Peer) { p.V4.MAC, p.V6.MAC = p.V6.MAC, inet.MAC{} },
	}
}

func TestPeersAreEqualInAllFormsOrInNone(t *testing.T) {
	t.Parallel()
	p, q := full(t), full(t)
	require.True(t, p.Equal(q))
	require.Equal(t, p.Key(), q.Key())
	require.Equal(t, peer.Digest([]peer.Peer{p}), peer.Digest([]peer.Peer{q}))
	for what, change := range changes() {
		q := full(t)
		change(&q)
		require.False(t, p.Equal(q), what)
		require.False(t, q.Equal(p), what)
		require.NotEqual(t, p.Key(), q.Key(), what)
		require.NotEqual(t, peer.Digest([]peer.Peer{p}), peer.Digest([]peer.Peer{q}), what)
	}
}

func TestTheKeyTellsRangesApartThatJoinToTheSameBytes(t *testing.T) {
	t.Parallel()
	seen := map[peer.Key]string{}
	for _, pods := range [][]string{
		{}, {"0.0.0.0/0"}, {"::/0"}, {"0.0.0.0/0", "0.0.0.0/0"}, {"0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0"},
		{"0.0.0.0/0", "::/0"}, {"::/0", "0.0.0.0/0"}, {"10.0.0.0/8"}, {"::ffff:10.0.0.0/104"},
	} {
		k := peer.Peer{Pods: prefixes(pods...)}.Key()
		require.Empty(t, seen[k], "%v", pods)
		seen[k] = fmt.Sprint(pods)
	}
}

func TestNoRangesAreTheSameAsAnEmptyListOfThem(t *testing.T) {
	t.Parallel()
	p, q := peer.Peer{Name: "a"}, peer.Peer{Name: "a", Pods: []netip.Prefix{}}
	require.True(t, p.Equal(q))
	require.Equal(t, p.Key(), q.Key())
	require.Equal(t, peer.Digest([]peer.Peer{p}), peer.Digest([]peer.Peer{q}))
}

func TestTheDigestOfAListDoesNotDependOnItsOrder(t *testing.T) {
	t.Parallel()
	list := nodes(100).Peers
	want := peer.Digest(list)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		require.Equal(t, want, peer.Digest(list))
	}
	require.NotEqual(t, want, peer.Digest(list[1:]))
	require.NotEqual(t, want, peer.Digest(append(list, list[0])))
	require.NotEqual(t, peer.Digest(nil), peer.Digest([]peer.Peer{{}}))
}

func TestTheDigestIsTheSameOnEveryMachine(t *testing.T) {
	t.Parallel()
	const line = `{ "name": "a", "endpoint": ["192.0.2.11", "2001:db8::11"], "pods": ["10.244.1.0/24", "fd00:10:244:1::/64"], ` +
		`"mac": "0a:58:0a:f4:01:02", "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "port": 4789, "vni": 7, "encap": "vxlan" }` + "\n"
	require.Equal(t, sha256.Sum256([]byte(line)), peer.Digest([]peer.Peer{full(t)}))
	require.Equal(t, sha256.Sum256(nil), peer.Digest(nil))
}

func TestTheFamilyOfAnAddress(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]inet.Family{
		"192.0.2.1": inet.IPv4, "0.0.0.0": inet.IPv4, "::": inet.IPv6, "2001:db8::1": inet.IPv6, "fe80::1%eth0": inet.IPv6,
		"::ffff:192.0.2.1": 0,
	} {
		require.Equal(t, want, inet.FamilyOf(addr(s)), s)
	}
	require.Zero(t, inet.FamilyOf(netip.Addr{}))
	require.Equal(t, []string{"ipv4", "ipv6", "no family"}, []string{inet.IPv4.String(), inet.IPv6.String(), inet.Family(0).String()})
}

func TestEndpointsAndRangesAreFoundByFamily(t *testing.T) {
	t.Parallel()
	p := full(t)
	require.Equal(t, p.V4, p.Endpoint(inet.IPv4))
	require.Equal(t, p.V6, p.Endpoint(inet.IPv6))
	require.Zero(t, p.Endpoint(0))
	p.Pods = prefixes("fd00::/64", "10.1.0.0/24", "fd01::/64", "10.0.0.0/24")
	require.Equal(t, prefixes("10.1.0.0/24", "10.0.0.0/24"), p.PodsOf(inet.IPv4))
	require.Equal(t, prefixes("fd00::/64", "fd01::/64"), p.PodsOf(inet.IPv6))
	require.Empty(t, p.PodsOf(0))
}

func TestMACsAndKeysAreTexts(t *testing.T) {
	t.Parallel()
	p := full(t)
	for _, f := range inet.Families {
		e := p.Endpoint(f)
		text, err := e.MAC.MarshalText()
		require.NoError(t, err)
		var m inet.MAC
		require.NoError(t, m.UnmarshalText(text))
		require.Equal(t, e.MAC, m)
		require.NoError(t, m.UnmarshalText(nil))
		require.Zero(t, m)
		require.Empty(t, m.String())
		require.Error(t, m.UnmarshalText([]byte("x")))

		text, err = e.PublicKey.MarshalText()
		require.NoError(t, err)
		var k peer.PublicKey
		require.NoError(t, k.UnmarshalText(text))
		require.Equal(t, e.PublicKey, k)
		require.NoError(t, k.UnmarshalText(nil))
		require.Zero(t, k)
		require.Empty(t, k.String())
		require.Error(t, k.UnmarshalText([]byte("x")))
	}
}

func TestOnlyWholePublicKeysAreRead(t *testing.T) {
	t.Parallel()
	const form = `is not a public key: write 32 bytes in base64, 44 characters, as "wg pubkey" prints them`
	for s, want := range map[string]string{
		"": form,
		"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE":      form, // no padding
		"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF=":     form, // bits that no key has
		"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ==": form,
		"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB":         form,
		"-_EBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=":     form, // of another alphabet
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=":     `is all zero, which is nobody's public key: make one with "wg genkey" and "wg pubkey"`,
	} {
		k, err := peer.ParsePublicKey(s)
		require.EqualError(t, err, fmt.Sprintf("%q %s", s, want))
		require.Zero(t, k)
	}
}
