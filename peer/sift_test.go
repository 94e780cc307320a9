package peer_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

func at(name, endpoint string, pods ...string) peer.Peer {
	p := peer.Peer{Name: name, Pods: prefixes(pods...)}
	if endpoint != "" {
		if a := addr(endpoint); a.Is4() {
			p.V4.Addr = a
		} else {
			p.V6.Addr = a
		}
	}
	return p
}

func names(peers []peer.Peer) string {
	var s []string
	for _, p := range peers {
		s = append(s, p.Name)
	}
	return strings.Join(s, " ")
}

func TestAGoodNetworkIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	for what, n := range map[string]peer.Network{
		"nothing at all":            {},
		"no peers":                  {Prefixes: prefixes("10.244.0.0/16")},
		"everything published":      {Prefixes: prefixes("10.244.0.0/16", "fd00:10:244::/48"), Peers: []peer.Peer{full(t)}},
		"a thousand":                nodes(1000),
		"no prefixes":               {Peers: []peer.Peer{at("a", "192.0.2.11", "10.1.0.0/24", "fd00::/64"), at("b", "2001:db8::1", "172.16.0.0/12")}},
		"ranges side by side":       {Peers: []peer.Peer{at("a", "192.0.2.11", "10.0.0.0/25"), at("b", "192.0.2.12", "10.0.0.128/25")}},
		"the whole network":         {Prefixes: prefixes("10.0.0.0/8"), Peers: []peer.Peer{at("a", "192.0.2.11", "10.0.0.0/8")}},
		"an endpoint within":        {Prefixes: prefixes("10.0.0.0/8"), Peers: []peer.Peer{at("a", "10.9.9.9", "10.1.0.0/16")}},
		"several ranges":            {Peers: []peer.Peer{at("a", "192.0.2.11", "10.0.0.0/24", "10.0.2.0/24"), at("b", "192.0.2.12", "10.0.1.0/24", "10.0.3.0/24")}},
		"single addresses":          {Peers: []peer.Peer{at("a", "192.0.2.11", "10.0.0.0/32"), at("b", "192.0.2.12", "10.0.0.1/32", "fd00::/128")}},
		"IPv4 link-local":           {Peers: []peer.Peer{at("a", "169.254.3.4", "10.0.0.0/24")}},
		"one address, two ports":    {Peers: []peer.Peer{withPort(at("a", "192.0.2.11", "10.0.0.0/24"), 51820), withPort(at("b", "192.0.2.11", "10.0.1.0/24"), 51821)}},
		"a caller without endpoint": {Peers: []peer.Peer{{Name: "road", Pods: prefixes("10.0.0.0/24"), Reach: peer.Reach{V4: peer.Endpoint{PublicKey: full(t).V4.PublicKey}}}}},
	} {
		require.NoError(t, n.Validate(), what)
		good, problems, err := n.Sift()
		require.NoError(t, err, what)
		require.Empty(t, problems, what)
		require.True(t, slices.EqualFunc(n.Peers, good.Peers, peer.Peer.Equal), what)
		require.Equal(t, n.Prefixes, good.Prefixes, what)
	}
}

func withPort(p peer.Peer, port uint16) peer.Peer {
	p.V4.Port = port
	return p
}

func TestEachProblemNamesPartiesKeyValueAndRemedy(t *testing.T) {
	t.Parallel()
	mac := func(p peer.Peer, m byte) peer.Peer { p.V4.MAC = inet.MAC{m, 1, 2, 3, 4, 5}; return p }
	key := func(p peer.Peer, k byte) peer.Peer { p.V4.PublicKey = peer.PublicKey{k}; return p }
	const other = "give every peer ranges of its own"
	const loop = "let no range hold the address of a node: it would lead into the tunnel"
	const reach = "state the address at which the other nodes reach this one"
	const private = "state a range of your own, such as 10.244.0.0/16 or one below fd00::/8"
	for _, c := range []struct {
		network []string
		peers   []peer.Peer
		good    string
		want    string
	}{
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24"), at("b", "192.0.2.12", "10.244.1.0/24")}, good: "a",
			want: `peer "b": pods 10.244.1.0/24 overlaps pods 10.244.1.0/24 of peer "a": ` + other},
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24"), at("b", "192.0.2.12", "10.244.1.128/25")}, good: "a",
			want: `peer "b": pods 10.244.1.128/25 overlaps pods 10.244.1.0/24 of peer "a": ` + other},
		{peers: []peer.Peer{at("a", "192.0.2.11", "fd00:0:0:1::/64"), at("b", "192.0.2.12", "fd00::/48")}, good: "a",
			want: `peer "b": pods fd00::/48 overlaps pods fd00:0:0:1::/64 of peer "a": ` + other},
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.0.0/16", "10.244.1.0/24")},
			want: `peer "a": pods 10.244.1.0/24 overlaps pods 10.244.0.0/16 of the same peer: state the larger one alone`},
		{peers: []peer.Peer{at("a", "10.244.2.9", "10.244.1.0/24"), at("b", "192.0.2.12", "10.244.2.0/24")}, good: "a",
			want: `peer "b": pods 10.244.2.0/24 holds endpoint 10.244.2.9 of peer "a": ` + loop},
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24"), at("b", "10.244.1.9", "10.244.2.0/24")}, good: "a",
			want: `peer "b": endpoint 10.244.1.9 lies in pods 10.244.1.0/24 of peer "a": ` + loop},
		{peers: []peer.Peer{at("a", "10.244.1.9", "10.244.1.0/24")},
			want: `peer "a": endpoint 10.244.1.9 lies in its own pods 10.244.1.0/24: state the node's address on the underlay; a tunnel cannot lead to its own end`},
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24"), at("b", "192.0.2.11", "10.244.2.0/24")}, good: "a",
			want: `peer "b": endpoint 192.0.2.11 is also that of peer "a": give every peer an address of its own`},
		{peers: []peer.Peer{at("a", "2001:db8::1", "10.244.1.0/24"), at("b", "2001:db8::1", "10.244.2.0/24")}, good: "a",
			want: `peer "b": endpoint 2001:db8::1 is also that of peer "a": give every peer an address of its own`},
		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24"), at("a", "192.0.2.12", "10.244.2.0/24")}, good: "a",
			want: `peers[1]: name "a" is also that of peers[0]: give every peer a name of its own`},
		{peers: []peer.Peer{mac(at("a", "192.0.2.11", "10.244.1.0/24"), 2), mac(at("b", "192.0.2.12", "10.244.2.0/24"), 2)}, good: "a",
			want: `peer "b": mac 02:01:02:03:04:05 is also that of peer "a": give every tunnel device a MAC of its own, or state none`},
		{peers: []peer.Peer{key(at("a", "192.0.2.11", "10.244.1.0/24"), 2), key(at("b", "192.0.2.12", "10.244.2.0/24"), 2)}, good: "a",
			want: `peer "b": publicKey AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= is also that of peer "a": make a key on every node; a copied machine keeps its original's`},
		{peers: []peer.Peer{mac(at("a", "192.0.2.11", "10.244.1.0/24"), 1)},
			want: `peer "a": mac 01:01:02:03:04:05 is a group address, which no device has: state the MAC of the node's tunnel device`},

		{network: []string{"10.244.0.0/16"}, peers: []peer.Peer{at("a", "192.0.2.11", "10.245.1.0/24")},
			want: `peer "a": pods 10.245.1.0/24 lies outside of network 10.244.0.0/16: choose a range within, or extend network`},
		{network: []string{"10.244.0.0/16", "10.246.0.0/16"}, peers: []peer.Peer{at("a", "192.0.2.11", "10.0.0.0/8")},
			want: `peer "a": pods 10.0.0.0/8 lies outside of network 10.244.0.0/16, 10.246.0.0/16: choose a range within, or extend network`},
		{network: []string{"10.244.0.0/16"}, peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.0/24", "fd00::/64")},
			want: `peer "a": pods fd00::/64 is of ipv6, and network has no prefix of this family (10.244.0.0/16): add one to network, or leave the range out`},

		{peers: []peer.Peer{at("a", "192.0.2.11", "10.244.1.5/24")},
			want: `peer "a": pods 10.244.1.5/24 has bits set beyond its length of 24: write 10.244.1.0/24`},
		{peers: []peer.Peer{at("a", "192.0.2.11", "fd00::1/64")},
			want: `peer "a": pods fd00::1/64 has bits set beyond its length of 64: write fd00::/64`},
		{peers: []peer.Peer{at("a", "192.0.2.11", "::ffff:10.0.0.0/104")},
			want: `peer "a": pods ::ffff:10.0.0.0/104 is made of IPv4 addresses mapped into IPv6: write it as an IPv4 range`},
		{peers: []peer.Peer{at("a", "192.0.2.11", "127.0.0.0/16")},
			want: `peer "a": pods 127.0.0.0/16 overlaps 127.0.0.0/8, the loopback addresses: ` + private},
		{peers: []peer.Peer{at("a", "192.0.2.11", "224.1.0.0/16")},
			want: `peer "a": pods 224.1.0.0/16 overlaps 224.0.0.0/4, the multicast addresses: ` + private},
		{peers: []peer.Peer{at("a", "2001:db8::1", "0.0.0.0/0")},
			want: `peer "a": pods 0.0.0.0/0 overlaps 0.0.0.0/8, the addresses of "this network": ` + private},
		{peers: []peer.Peer{at("a", "192.0.2.11", "fe80::/64")},
			want: `peer "a": pods fe80::/64 overlaps fe80::/10, the link-local addresses: ` + private},
		{peers: []peer.Peer{at("a", "192.0.2.11", "::/0")},
			want: `peer "a": pods ::/0 overlaps ::/127, the unspecified and the loopback address: ` + private},
		{peers: []peer.Peer{{Name: "a", Pods: []netip.Prefix{{}}, Reach: peer.Reach{V4: peer.Endpoint{Addr: addr("192.0.2.1")}}}},
			want: `peer "a": pods invalid Prefix is no range: ` + private},

		{peers: []peer.Peer{at("a", "0.0.0.0", "10.244.1.0/24")}, want: `peer "a": endpoint 0.0.0.0 is the unspecified address: ` + reach},
		{peers: []peer.Peer{at("a", "::", "10.244.1.0/24")}, want: `peer "a": endpoint :: is the unspecified address: ` + reach},
		{peers: []peer.Peer{at("a", "127.0.0.1", "10.244.1.0/24")}, want: `peer "a": endpoint 127.0.0.1 is a loopback address: ` + reach},
		{peers: []peer.Peer{at("a", "::1", "10.244.1.0/24")}, want: `peer "a": endpoint ::1 is a loopback address: ` + reach},
		{peers: []peer.Peer{at("a", "224.0.0.1", "10.244.1.0/24")}, want: `peer "a": endpoint 224.0.0.1 is a multicast address: ` + reach},
		{peers: []peer.Peer{at("a", "ff02::1", "10.244.1.0/24")}, want: `peer "a": endpoint ff02::1 is a multicast address: ` + reach},
		{peers: []peer.Peer{at("a", "255.255.255.255", "10.244.1.0/24")}, want: `peer "a": endpoint 255.255.255.255 is the broadcast address: ` + reach},
		{peers: []peer.Peer{at("a", "0.1.2.3", "10.244.1.0/24")}, want: `peer "a": endpoint 0.1.2.3 is an address of "this network", 0.0.0.0/8, which is no node's: ` + reach},
		{peers: []peer.Peer{at("a", "fe80::1", "10.244.1.0/24")},
			want: `peer "a": endpoint fe80::1 is a link-local address, which other links do not know: state a global or unique local address`},
		{peers: []peer.Peer{at("a", "fe80::1%eth0", "10.244.1.0/24")},
			want: `peer "a": endpoint fe80::1%eth0 has a zone, which means something on one machine only: state a global or unique local address`},
		{peers: []peer.Peer{at("a", "::ffff:192.0.2.1", "10.244.1.0/24")},
			want: `peer "a": endpoint ::ffff:192.0.2.1 is an IPv4 address mapped into IPv6: write 192.0.2.1`},
		{peers: []peer.Peer{{Name: "a", Pods: prefixes("10.244.1.0/24"), Reach: peer.Reach{V6: peer.Endpoint{Addr: addr("192.0.2.1")}}}},
			want: `peer "a": endpoint 192.0.2.1 is not an address of ipv6, which it is given for: give it for the family that it is of`},
		{peers: []peer.Peer{at("a", "", "10.244.1.0/24")},
			want: `peer "a": endpoint is missing: state the node's address on the underlay (only a WireGuard peer, one with "publicKey", can do without)`},
		{peers: []peer.Peer{at("a", "192.0.2.11")},
			want: `peer "a": pods is missing: state the range of the node's pods, such as "10.244.1.0/24"`},
		{peers: []peer.Peer{at("a", "192.0.2.11", slices.Repeat([]string{"10.244.1.0/24"}, 65)...)},
			want: `peer "a": pods has more than 64 entries: state fewer, larger ones`},
		{peers: []peer.Peer{{Name: "a", Pods: prefixes("10.244.1.0/24"), Reach: peer.Reach{V4: peer.Endpoint{Addr: addr("192.0.2.1"), VNI: 1 << 24}}}},
			want: `peer "a": vni 16777216 does not fit into 24 bits: state a number from 1 to 16777215`},

		{peers: []peer.Peer{at("", "192.0.2.11", "10.244.1.0/24")},
			want: `peers[0]: name is missing: use the host name of the node, or any other name without spaces of at most 253 bytes`},
		{peers: []peer.Peer{at("my node", "192.0.2.11", "10.244.1.0/24")},
			want: `peer "my node": name "my node" has the character ' ' in it: use the host name of the node, or any other name without spaces of at most 253 bytes`},
		{peers: []peer.Peer{at("a\n", "192.0.2.11", "10.244.1.0/24")},
			want: `peer "a\n": name "a\n" has the character '\n' in it: use the host name of the node, or any other name without spaces of at most 253 bytes`},
		{peers: []peer.Peer{at("a\xff", "192.0.2.11", "10.244.1.0/24")},
			want: `peer "a\xff": name "a\xff" is not UTF-8: use the host name of the node, or any other name without spaces of at most 253 bytes`},
		{peers: []peer.Peer{at(strings.Repeat("x", 254), "192.0.2.11", "10.244.1.0/24")},
			want: fmt.Sprintf(`peer "%[1]s...": name "%[1]s..." has 254 bytes: use the host name of the node, or any other name without spaces of at most 253 bytes`, strings.Repeat("x", 80))},
	} {
		n := peer.Network{Prefixes: prefixes(c.network...), Peers: c.peers}
		require.EqualError(t, n.Validate(), c.want)
		good, problems, err := n.Sift()
		require.NoError(t, err, c.want)
		require.Len(t, problems, 1, c.want)
		require.Equal(t, c.good, names(good.Peers), c.want)
	}
}

func TestAWrongNetworkIsNoGoodToAnyone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ network, want string }{
		{"10.244.1.0/16", `network 10.244.1.0/16 has bits set beyond its length of 16: write 10.244.0.0/16`},
		{"10.244.0.0/16 10.244.1.0/24", `network 10.244.1.0/24 overlaps network 10.244.0.0/16: state the larger one alone`},
		{"0.0.0.0/0", `network 0.0.0.0/0 overlaps 0.0.0.0/8, the addresses of "this network": state a range of your own, such as 10.244.0.0/16 or one below fd00::/8`},
		{"fd00::/8 ff00::/16", `network ff00::/16 overlaps ff00::/8, the multicast addresses: state a range of your own, such as 10.244.0.0/16 or one below fd00::/8`},
		{strings.Repeat("10.244.0.0/16 ", 65), `network has more than 64 entries: state fewer, larger ones`},
	} {
		n := peer.Network{Prefixes: prefixes(strings.Fields(c.network)...), Peers: []peer.Peer{at("a", "192.0.2.1", "10.244.1.0/24"), at("b", "192.0.2.2")}}
		good, problems, err := n.Sift()
		require.EqualError(t, err, c.want)
		require.Zero(t, good)
		require.Len(t, problems, 1, "those of the peers are told all the same")
		require.EqualError(t, n.Validate(), c.want+"\n"+problems[0].Error())
	}
	n := peer.Network{Peers: make([]peer.Peer, peer.MaxPeers+1)}
	require.EqualError(t, n.Validate(), "peers has more than 65536 entries: split the network")
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	n := peer.Network{
		Prefixes: prefixes("10.244.0.0/16"),
		Peers: []peer.Peer{
			at("a", "192.0.2.11", "10.244.1.0/24"),
			at("a", "192.0.2.11", "10.244.1.0/25", "10.245.0.0/24", "fe80::/64"),
			at("", "127.0.0.1"),
			at("d", "10.244.1.77", "10.244.4.0/24"),
		},
	}
	want := []string{"name", "endpoint", "pods", "pods", "pods", "name", "endpoint", "pods", "endpoint"}
	_, problems, err := n.Sift()
	require.NoError(t, err)
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	slices.Sort(want)
	slices.Sort(keys)
	require.Equal(t, want, keys, "%v", problems)

	joined, ok := n.Validate().(interface{ Unwrap() []error })
	require.True(t, ok)
	require.Len(t, joined.Unwrap(), 1)
	var each *peer.Problem
	require.ErrorAs(t, n.Validate(), &each)
	var all peer.Problems
	require.ErrorAs(t, n.Validate(), &all)
	require.Equal(t, len(problems), len(all.Unwrap()))
	require.Equal(t, len(problems)-1, strings.Count(n.Validate().Error(), "\n"))
}

func TestOfTwoThatClashTheEarlierStays(t *testing.T) {
	t.Parallel()
	small, large := at("small", "192.0.2.1", "10.244.1.0/24"), at("large", "192.0.2.2", "10.244.0.0/16")
	for _, list := range [][]peer.Peer{{small, large}, {large, small}} {
		good, problems, err := peer.Network{Peers: list}.Sift()
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.Equal(t, list[0].Name, names(good.Peers))
	}
}

func TestAPeerThatIsLeftOutTakesNobodysPlace(t *testing.T) {
	t.Parallel()
	broken := at("b", "192.0.2.2", "10.244.0.0/16", "10.99.0.0/16", "fd00::/48")
	broken.V4.MAC, broken.V4.PublicKey = inet.MAC{2}, peer.PublicKey{1}
	later := at("c", "192.0.2.2", "10.99.1.0/24", "fd00::/64")
	later.V4.MAC, later.V4.PublicKey = broken.V4.MAC, broken.V4.PublicKey
	good, problems, err := peer.Network{Peers: []peer.Peer{at("a", "192.0.2.1", "10.244.1.0/24"), broken, later, at("b", "192.0.2.4", "10.4.0.0/24")}}.Sift()
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "a c b", names(good.Peers))
}

// slow is what Sift promises, told in the simplest way.
func slow(n peer.Network) []peer.Peer {
	var good []peer.Peer
	for _, p := range n.Peers {
		fits := peer.Network{Prefixes: n.Prefixes, Peers: []peer.Peer{p}}.Validate() == nil
		for _, q := range good {
			fits = fits && !clash(p, q)
		}
		if fits {
			good = append(good, p)
		}
	}
	return good
}

func clash(p, q peer.Peer) bool {
	if p.Name == q.Name {
		return true
	}
	for _, f := range inet.Families {
		a, b := p.Endpoint(f), q.Endpoint(f)
		if a.Addr.IsValid() && a.Addr == b.Addr && a.Port == b.Port || a.MAC != (inet.MAC{}) && a.MAC == b.MAC {
			return true
		}
		for _, r := range q.Pods {
			if a.Addr.IsValid() && r.Contains(a.Addr) {
				return true
			}
		}
		for _, r := range p.Pods {
			if b.Addr.IsValid() && r.Contains(b.Addr) {
				return true
			}
		}
	}
	for _, r := range p.Pods {
		for _, s := range q.Pods {
			if r.Overlaps(s) {
				return true
			}
		}
	}
	return false
}

// crowd makes peers that get into each other's way.
func crowd(rng *rand.Rand, n int) peer.Network {
	net := peer.Network{}
	if rng.IntN(2) == 0 {
		net.Prefixes = prefixes("10.0.0.0/9", "fd00::/16")
	}
	for range n {
		p := peer.Peer{Name: fmt.Sprint("n", rng.IntN(3*n))}
		for range 1 + rng.IntN(3) {
			four := netip.AddrFrom4([4]byte{10, byte(rng.IntN(160)), byte(rng.IntN(4) * 64), byte(rng.IntN(4) * 64)})
			r := netip.PrefixFrom(four, 12+rng.IntN(21))
			if rng.IntN(3) == 0 {
				r = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, byte(rng.IntN(8)), byte(rng.IntN(256))}), 20+rng.IntN(45))
			}
			if rng.IntN(8) > 0 {
				r = r.Masked()
			}
			p.Pods = append(p.Pods, r)
		}
		p.V4.Addr = netip.AddrFrom4([4]byte{172, 16, byte(rng.IntN(3)), byte(rng.IntN(256))})
		switch rng.IntN(6) {
		case 0:
			p.V4.Addr = netip.AddrFrom4([4]byte{10, byte(rng.IntN(256)), 1, 1}) // perhaps in someone's range
		case 1:
			p.V4.Port = uint16(rng.IntN(3))
		case 2:
			p.V6.Addr = netip.AddrFrom16([16]byte{0xfd, 0, 0, byte(rng.IntN(256)), 15: 1})
		case 3:
			p.V4.MAC = inet.MAC{2, byte(rng.IntN(2 * n))}
		}
		net.Peers = append(net.Peers, p)
	}
	return net
}

func TestSiftKeepsWhatASimplerOneWouldKeep(t *testing.T) {
	t.Parallel()
	kept, dropped := 0, 0
	for seed := range uint64(100) {
		n := crowd(rand.New(rand.NewPCG(seed, 5)), 40)
		good, problems, err := n.Sift()
		require.NoError(t, err)
		require.Equal(t, names(slow(n)), names(good.Peers), "seed %d", seed)
		require.Equal(t, len(problems) == 0, len(good.Peers) == len(n.Peers))
		require.NoError(t, good.Validate(), "seed %d: what is good is good alone", seed)
		kept, dropped = kept+len(good.Peers), dropped+len(n.Peers)-len(good.Peers)
	}
	require.Greater(t, kept, 1000)
	require.Greater(t, dropped, 1000, "the crowd is no test otherwise")
}

func TestAPeerIsCheckedAloneAsTheOnlyOneOfANetwork(t *testing.T) {
	t.Parallel()
	wrong := 0
	for seed := range uint64(100) {
		n := crowd(rand.New(rand.NewPCG(seed, 9)), 40)
		n.Peers = append(n.Peers, at("", "192.0.2.11", "10.1.0.0/24"), at("a", ""), at("a", "10.1.0.9", "10.1.0.0/24"), at("a", "192.0.2.11", "10.1.0.0/16", "10.1.1.0/24"))
		for _, p := range n.Peers {
			_, want, err := peer.Network{Prefixes: n.Prefixes, Peers: []peer.Peer{p}}.Sift()
			require.NoError(t, err)
			require.Equal(t, want, p.Check(n.Prefixes), "seed %d: %v", seed, p)
			wrong += len(want)
		}
	}
	require.Greater(t, wrong, 1000, "or nothing is proved")
}

func TestAPeerMoreNeverCostsAnEarlierOneItsPlace(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		n := crowd(rand.New(rand.NewPCG(seed, 6)), 30)
		before := ""
		for i := range n.Peers {
			good, _, err := peer.Network{Prefixes: n.Prefixes, Peers: n.Peers[:i+1]}.Sift()
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(names(good.Peers), before), "seed %d", seed)
			before = names(good.Peers)
		}
	}
}

func TestTheListThatIsSiftedStaysAsItIs(t *testing.T) {
	t.Parallel()
	n := crowd(rand.New(rand.NewPCG(7, 7)), 50)
	before := peer.Format(n)
	good, _, err := n.Sift()
	require.NoError(t, err)
	for i := range good.Peers {
		good.Peers[i] = peer.Peer{}
	}
	require.Equal(t, string(before), string(peer.Format(n)))
}

func TestManyThatClaimTheSameCostNoMoreThanOthers(t *testing.T) {
	t.Parallel()
	n := peer.Network{}
	for i := range 20_000 {
		n.Peers = append(n.Peers, at(fmt.Sprint(i), fmt.Sprintf("192.0.%d.%d", i>>8, i&255), "10.0.0.0/8", "fd00::/16"))
	}
	good, problems, err := n.Sift()
	require.NoError(t, err)
	require.Len(t, good.Peers, 1)
	require.Len(t, problems, 2*19_999)
}
