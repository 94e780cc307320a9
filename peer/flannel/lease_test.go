package flannel_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

type golden struct {
	What, Key, Value string
	Peer             peer.Peer
}

func goldens(t *testing.T) []golden {
	t.Helper()
	b, err := os.ReadFile("testdata/leases.json")
	require.NoError(t, err)
	var all []golden
	require.NoError(t, json.Unmarshal(b, &all))
	require.NotEmpty(t, all)
	return all
}

func TestLeasesAreReadAndWrittenByteForByte(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		l, err := flannel.ParseKey(g.Key)
		require.NoError(t, err, g.What)
		l.Attrs, err = flannel.ParseAttrs([]byte(g.Value))
		require.NoError(t, err, g.What)
		p, err := l.Peer("")
		require.NoError(t, err, g.What)
		require.Equal(t, g.Peer, p, g.What)

		again, err := flannel.Encode(p)
		require.NoError(t, err, g.What)
		require.Equal(t, l, again, g.What)
		require.Equal(t, g.Key, again.Key(), g.What)
		v, err := json.Marshal(again.Attrs)
		require.NoError(t, err, g.What)
		require.Equal(t, g.Value, string(v), g.What)
		require.NoError(t, peer.Network{Peers: []peer.Peer{p}}.Validate(), g.What)
	}
}

func TestALeaseThatIsNotPublishedHasAnAddressAlone(t *testing.T) {
	t.Parallel()
	const value = `{"PublicIP":"1.2.3.4","PublicIPv6":null}` // what flannel's own tests store
	a, err := flannel.ParseAttrs([]byte(value))
	require.NoError(t, err)
	require.Equal(t, flannel.Attrs{PublicIP: netip.MustParseAddr("1.2.3.4")}, a)
	require.False(t, a.Published())
	_, err = flannel.Lease{Attrs: a}.Peer("a")
	require.EqualError(t, err, "BackendType is missing: start the agent of that node, or delete its lease")

	b, err := flannel.EncodeReach(peer.Reach{V4: peer.Endpoint{Addr: a.PublicIP}})
	require.NoError(t, err)
	require.Equal(t, a, b)
	v, err := json.Marshal(b)
	require.NoError(t, err)
	require.Equal(t, value, string(v))
}

func TestValuesOfAnyDressAreRead(t *testing.T) {
	t.Parallel()
	want := flannel.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "host-gw"}
	for _, v := range []string{
		`{"PublicIP":"192.0.2.1","BackendType":"host-gw"}`,
		` { "publicip" : "192.0.2.1" , "backendtype": "host-gw", "PublicIPv6": "::", "Future": [1] } `,
		`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw","BackendData":null,"BackendV6Data":null}`,
	} {
		var a flannel.Attrs
		require.NoError(t, json.Unmarshal([]byte(v), &a), v)
		require.Equal(t, want, a, v)
	}
	r, err := want.Reach()
	require.NoError(t, err)
	require.Equal(t, peer.Reach{Encap: "host-gw", V4: peer.Endpoint{Addr: want.PublicIP}}, r)
}

func TestKeysThatNameNoRangeAreProblems(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "10", "10.12.13.0", "10.12.13-24", "10.12.13.300-24", "10.12.13.0-24hi", "10.12.13.0-0", "10.12.13.0-33", "10.12.13.7-24",
		"&2001::-56", "10.12.13.0-24&:12:13:-56", "10.12.13.0-24&20011::-56", "10.12.13.0-24&2001-56", "10.12.13.0-24&2001::", "10.12.13.0-24&2001::-56hi",
		"0.0.0.0-0", "0.0.0.0-0&10.12.13.0-24", "::ffff:10.12.13.0-120", "fd00::-64", "10.12.13.0-24&fd00::1-64", "10.12.13.0-24&fd00::%1-64", "0.0.0.0-0&::-0",
	} {
		l, err := flannel.ParseKey(key)
		var p *peer.Problem
		require.ErrorAs(t, err, &p, key)
		require.Zero(t, l)
		require.Equal(t, "key", p.Key)
		require.NotEmpty(t, p.Remedy)
	}
}

func TestValuesThatMeanNothingAreProblemsWithTheirKey(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{`:                 `value "{" is not a JSON object: write { "PublicIP": "192.0.2.1" }, or delete the key`,
		`[]`:                `value "[]" is not a JSON object: write { "PublicIP": "192.0.2.1" }, or delete the key`,
		`{"PublicIP":7}`:    `PublicIP 7 is not a string: write an address in quotes`,
		`{"PublicIP":"x"}`:  `PublicIP "x" is not an address of ipv4: write the address at which the other nodes reach this one`,
		`{"BackendType":1}`: `BackendType 1 is not a string: write the name of a backend in quotes`,
		`{"PublicIPv6":"192.0.2.1","BackendType":"host-gw"}`:                                `PublicIPv6 "192.0.2.1" is not an address of ipv6: write the address at which the other nodes reach this one`,
		`{"PublicIP":"192.0.2.1","BackendType":"udp"}`:                                      `BackendType "udp" is not one that is known here: want one of vxlan, host-gw, ipip, wireguard, gre, geneve`,
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan"}`:                                    `BackendData.VtepMAC is missing: restart the agent of that node; it publishes the MAC of its device`,
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":"x"}`:                  `BackendData "x" is not what the backend vxlan publishes: restart the agent of that node`,
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}`:      `BackendData.VtepMAC "x" is not the MAC of a device: restart the agent of that node; it publishes the MAC of its device`,
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":-1}}`:           `BackendData {"VNI":-1} is wrong: VNI -1 is not a number from 0 to 16777215: write one without quotes: restart the agent of that node`,
		`{"PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1}}`:        `BackendV6Data.VtepMAC is missing: restart the agent of that node; it publishes the MAC of its device`,
		`{"PublicIP":"192.0.2.1","BackendType":"wireguard"}`:                                `BackendData.PublicKey is missing: restart the agent of that node; it publishes the key of its device`,
		`{"PublicIP":"192.0.2.1","BackendType":"wireguard","BackendData":{"PublicKey":""}}`: `BackendData.PublicKey "" is not a public key: restart the agent of that node; it publishes the key of its device`,
		`{"BackendType":"` + strings.Repeat("ä", 100) + `"}`:                                `BackendType "` + strings.Repeat("ä", 40) + `..." is not one that is known here: want one of vxlan, host-gw, ipip, wireguard, gre, geneve`,
	} {
		a, err := flannel.ParseAttrs([]byte(value))
		if err == nil {
			_, err = a.Reach()
		}
		var p *peer.Problem
		require.ErrorAs(t, err, &p, value)
		require.EqualError(t, err, want, value)
	}
}

func TestOneWireGuardKeyServesBothFamilies(t *testing.T) {
	t.Parallel()
	a, err := flannel.ParseAttrs([]byte(`{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"wireguard",
		"BackendData":{"PublicKey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}}`))
	require.NoError(t, err)
	r, err := a.Reach()
	require.NoError(t, err)
	require.NotZero(t, r.V4.PublicKey)
	require.Equal(t, r.V4.PublicKey, r.V6.PublicKey)
}

func TestWhatALeaseCannotSayIsRefused(t *testing.T) {
	t.Parallel()
	four := netip.MustParseAddr("192.0.2.1")
	for want, p := range map[string]peer.Peer{
		`node "a" has the ranges 10.0.0.0/24 and 10.0.1.0/24: a flannel lease has one for each family`:        {Name: "a", Pods: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")}},
		`publish over encapsulation "host-gw": no endpoint is stated: flannel leases need the node's address`: {Reach: peer.Reach{Encap: "host-gw"}},
		`publish encapsulation "l2tp": flannel leases have vxlan, host-gw, ipip, wireguard, gre, geneve`:      {Reach: peer.Reach{Encap: "l2tp", V4: peer.Endpoint{Addr: four}}},
		`publish encapsulation vxlan at 192.0.2.1: the MAC of the device is missing: make the device first`:   {Reach: peer.Reach{Encap: "vxlan", V4: peer.Endpoint{Addr: four}}},
		`publish encapsulation wireguard at 192.0.2.1: the public key is missing: make the device first`:      {Reach: peer.Reach{Encap: "wireguard", V4: peer.Endpoint{Addr: four}}},
	} {
		_, err := flannel.Encode(p)
		require.EqualError(t, err, want)
	}
}

func TestALeaseIsOneLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "10.244.1.0-24 at 192.0.2.1 and 2001:db8::1", flannel.Lease{Subnet: netip.MustParsePrefix("10.244.1.0/24"),
		Attrs: flannel.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1"), PublicIPv6: netip.MustParseAddr("2001:db8::1")}}.String())
}
