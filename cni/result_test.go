package cni_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }

// full has everything that CNI 1.1.0 can say.
func full() *cni.Result {
	return &cni.Result{
		Interfaces: []cni.Interface{{Name: "br0", MAC: "02:00:00:00:00:01", MTU: 1400}, {Name: "eth0", MAC: "02:00:00:00:00:02", MTU: 1400,
			Sandbox: "/run/netns/c1", SocketPath: "/run/x.sock", PciID: "0000:00:1f.6"}},
		IPs: []cni.IP{{Address: prefix("10.1.2.3/24"), Gateway: ip("10.1.2.1"), Interface: 1}, {Address: prefix("fd00::3/64"), Interface: 1},
			{Address: prefix("10.9.9.9/32"), Interface: cni.NoInterface}},
		Routes: []cni.Route{{Dst: prefix("0.0.0.0/0"), GW: ip("10.1.2.1")}, {Dst: prefix("fd01::/48"), MTU: 1300, AdvMSS: 1200, Priority: 7, Table: 99, Scope: 253}},
		DNS:    cni.DNS{Nameservers: []string{"10.1.2.1"}, Domain: "example.org", Search: []string{"a", "b"}, Options: []string{"ndots:5"}},
	}
}

func TestAResultComesBackInEveryVersionWithWhatThatCanSay(t *testing.T) {
	t.Parallel()
	for _, version := range cni.Versions {
		b, err := full().Encode(version)
		require.NoError(t, err, version)
		got, err := cni.ParseResult(b)
		require.NoError(t, err, "%s: %s", version, b)
		want := full().As(version)
		if version == "0.1.0" || version == "0.2.0" {
			// One address of each family; the routes stand with that of theirs.
			want.IPs = want.IPs[:2]
		}
		if strings.HasPrefix(version, "0.") && version >= "0.3.0" { // no address without an interface is lost
			require.Len(t, got.IPs, 3)
		}
		require.Equal(t, want, got, "%s: %s", version, b)
	}
	require.Equal(t, full(), full().As("1.1.0"))
}

func TestTheSpecificationsOwnLibraryReadsWhatIsEncoded(t *testing.T) {
	t.Parallel()
	for _, version := range cni.Versions {
		b, err := full().Encode(version)
		require.NoError(t, err)
		theirs, err := create.CreateFromBytes(b)
		require.NoError(t, err, "%s: %s", version, b)
		require.Equal(t, version, theirs.Version())
		newest, err := current.NewResultFromResult(theirs)
		require.NoError(t, err)
		require.Equal(t, "10.1.2.3/24", newest.IPs[0].Address.String())
		require.Equal(t, "10.1.2.1", newest.IPs[0].Gateway.String())
		require.Equal(t, "0.0.0.0/0", newest.Routes[0].Dst.String())
		require.Equal(t, []string{"10.1.2.1"}, newest.DNS.Nameservers)
		if version >= "0.3.0" {
			require.Equal(t, "eth0", newest.Interfaces[1].Name)
			require.Equal(t, 1, *newest.IPs[1].Interface)
			require.Nil(t, newest.IPs[2].Interface)
		}
		if version == "1.1.0" {
			require.Equal(t, types.Route{Dst: newest.Routes[1].Dst, MTU: 1300, AdvMSS: 1200, Priority: 7, Table: newest.Routes[1].Table,
				Scope: newest.Routes[1].Scope}, *newest.Routes[1])
			require.Equal(t, []int{99, 253}, []int{*newest.Routes[1].Table, *newest.Routes[1].Scope})
			require.Equal(t, []any{1400, "/run/x.sock", "0000:00:1f.6"}, []any{newest.Interfaces[1].Mtu, newest.Interfaces[1].SocketPath, newest.Interfaces[1].PciID})
		}
		// And the other way: what the library writes is read as what it was.
		again, err := json.Marshal(theirs)
		require.NoError(t, err)
		ours, err := cni.ParseResult(again)
		require.NoError(t, err)
		first, err := cni.ParseResult(b)
		require.NoError(t, err)
		require.Equal(t, first, ours, version)
	}
}

func TestOldFormsAreThoseOfTheSpecificationsOwnLibrary(t *testing.T) {
	t.Parallel()
	bare := full()
	bare.DNS, bare.Routes = cni.DNS{}, nil
	mixed := &cni.Result{
		IPs:    []cni.IP{{Address: prefix("fd00::3/64"), Gateway: ip("fd00::1"), Interface: cni.NoInterface}, {Address: prefix("fd01::3/64"), Interface: cni.NoInterface}},
		Routes: []cni.Route{{Dst: prefix("0.0.0.0/0")}, {Dst: prefix("::/0"), GW: ip("fd00::1")}},
	}
	for _, r := range []*cni.Result{full(), bare, mixed} {
		newest, err := r.Encode("1.0.0")
		require.NoError(t, err)
		theirs, err := create.Create("1.0.0", newest)
		require.NoError(t, err)
		for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"} {
			old, err := theirs.GetAsVersion(version)
			require.NoError(t, err)
			want, err := json.Marshal(old)
			require.NoError(t, err)
			have, err := r.Encode(version)
			require.NoError(t, err)
			require.Equal(t, string(want), string(have))
		}
	}
	// And read the same, with keys that the version does not know.
	for _, text := range []string{
		`{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "mtu": 1400, "sandbox": "/x"}], "ips": [{"version": "4", "interface": 0, "address": "::ffff:10.0.0.2/120"}],
			"routes": [{"dst": "::ffff:10.9.0.0/112", "gw": "10.0.0.1", "mtu": 1300}]}`,
		`{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "fd00::2/64"}, "interfaces": [{"name": "x"}]}`,
		`{"ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]}, "dns": {"nameservers": ["fd00::1"]}}`,
	} {
		have, err := cni.ParseResult([]byte(text))
		require.NoError(t, err)
		old, err := create.CreateFromBytes([]byte(text))
		require.NoError(t, err)
		newest, err := old.GetAsVersion("1.0.0")
		require.NoError(t, err)
		b, err := json.Marshal(newest)
		require.NoError(t, err)
		want, err := cni.ParseResult(b)
		require.NoError(t, err)
		require.Equal(t, want.As("0.4.0"), have.As("0.4.0"), text)
	}
	_, err := (&cni.Result{}).Encode("0.2.0")
	require.ErrorContains(t, err, "cannot convert: no valid IP addresses")
}

func TestAnOldVersionSaysNothingThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for version, unknown := range map[string][]string{
		"0.1.0": {"interfaces", "mtu", "sandbox", "advmss"}, "0.2.0": {"interfaces", "mtu", "sandbox"},
		"0.3.1": {"mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"}, "1.0.0": {"mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"},
	} {
		b, err := full().Encode(version)
		require.NoError(t, err)
		for _, key := range unknown {
			require.NotContains(t, string(b), `"`+key+`"`, version)
		}
	}
}

func TestAnEmptyResultIsOneToo(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.3.0", "0.4.0", "1.0.0", "1.1.0"} {
		b, err := (&cni.Result{}).Encode(version)
		require.NoError(t, err)
		got, err := cni.ParseResult(b)
		require.NoError(t, err)
		require.Empty(t, got.IPs)
		require.Empty(t, got.Interfaces)
	}
	b, err := (&cni.Result{}).Encode("1.1.0")
	require.NoError(t, err)
	require.JSONEq(t, `{"cniVersion": "1.1.0"}`, string(b))
	_, err = (&cni.Result{}).Encode("0.2.0")
	require.Equal(t, cni.ErrVersion, cni.CodeOf(err), "0.2.0 cannot say that there is no address")
	_, err = (&cni.Result{}).Encode("1.2.0")
	require.Equal(t, cni.ErrVersion, cni.CodeOf(err))
}

func TestAResultThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		``:                        "unexpected end of JSON input",
		`[]`:                      "cannot unmarshal array",
		`{"cniVersion": "2.0.0"}`: `result has cniVersion "2.0.0"; want one of`,
		`{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1"}]}`:                                        `address "10.0.0.1" is no prefix`,
		`{"cniVersion": "1.0.0", "ips": [{}]}`:                                                             `address "" is no prefix`,
		`{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/33"}]}`:                                     "is no prefix",
		`{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24", "gateway": "x"}]}`:                     `gateway "x" of 10.0.0.1/24 is no IP address`,
		`{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24", "interface": -1}]}`:                    "names interface -1 of 0",
		`{"cniVersion": "1.0.0", "interfaces": [{}], "ips": [{"address": "10.0.0.1/24", "interface": 1}]}`: "names interface 1 of 1",
		`{"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0"}]}`:                                         `key "dst" of a route: "10.0.0.0" is no prefix`,
		`{"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0/8", "gw": "x"}]}`:                            `key "gw" of the route to 10.0.0.0/8: "x" is no IP address`,
		`{"cniVersion": "1.0.0", "routes": [{"dst": "fd00::/8", "gw": "10.0.0.1"}]}`:                       "10.0.0.1 is an IPv4 address; want an IPv6 one",
		`{"cniVersion": "1.1.0", "routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}`:                            `key "mtu" of the route to 10.0.0.0/8: -1 is not between 0 and 4294967295`,
		`{"cniVersion": "1.1.0", "routes": [{"dst": "10.0.0.0/8", "table": 4294967296}]}`:                  `key "table"`,
		`{"cniVersion": "1.1.0", "routes": [{"dst": "10.0.0.0/8", "scope": 256}]}`:                         `key "scope"`,
		`{"cniVersion": "0.2.0", "ip4": {"ip": "x"}}`:                                                      "result of version 0.2.0",
		`{"cniVersion": "0.4.0", "ips": "x"}`:                                                              "result of version 0.4.0",
	} {
		_, err := cni.ParseResult([]byte(text))
		require.ErrorContains(t, err, says, text)
		require.Contains(t, []cni.Code{cni.ErrDecode, cni.ErrVersion}, cni.CodeOf(err))
	}
}

func TestMappedAddressesAreIPv4(t *testing.T) {
	t.Parallel()
	r, err := cni.ParseResult([]byte(`{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "gateway": "::ffff:10.0.0.1"}],
		"routes": [{"dst": "0.0.0.0/0", "gw": "::ffff:10.0.0.1"}]}`))
	require.NoError(t, err)
	require.Equal(t, ip("10.0.0.1"), r.IPs[0].Gateway)
	require.Equal(t, ip("10.0.0.1"), r.Routes[0].GW)
}

func TestAsLeavesTheOriginalAlone(t *testing.T) {
	t.Parallel()
	r := full()
	for _, version := range cni.Versions {
		c := r.As(version)
		if len(c.Interfaces) > 0 {
			c.Interfaces[0].Name = "changed"
		}
		c.IPs[0].Interface, c.Routes[0].MTU = 77, 77
	}
	require.Equal(t, full(), r)
}
