package flannel_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

func TestAConfigurationHasTheDefaultsOfFlannel(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]flannel.Config{
		`{ "network": "10.3.0.0/16" }`: {EnableIPv4: true, Network: pfx("10.3.0.0/16"), SubnetLen: 24, SubnetMin: ip("10.3.1.0"), SubnetMax: ip("10.3.255.0"),
			Backend: flannel.Backend{Type: "udp"}},
		`{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false, "Backend": {"Type":"vxlan"} }`: {EnableIPv6: true, IPv6Network: pfx("fc00::/48"),
			IPv6SubnetLen: 64, IPv6SubnetMin: ip("fc00:0:0:1::"), IPv6SubnetMax: ip("fc00:0:0:ffff::"), Backend: flannel.Backend{Type: "vxlan"}},
		`{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28, "Backend": {} }`: {EnableIPv4: true, Network: pfx("10.3.0.0/16"),
			SubnetLen: 28, SubnetMin: ip("10.3.5.0"), SubnetMax: ip("10.3.8.0")},
		`{ "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::", "IPv6SubnetMax": "fc00:0:0:f::", "IPv6SubnetLen": 124, "enableIPv4": false, "Backend": {} }`: {
			EnableIPv6: true, IPv6Network: pfx("fc00::/48"), IPv6SubnetLen: 124, IPv6SubnetMin: ip("fc00:0:0:1::"), IPv6SubnetMax: ip("fc00:0:0:f::")},
		`{ "Network": "10.3.0.9/24", "EnableNFTables": true, "SubnetMin": "0.0.0.0", "SubnetMax": null, "Future": {}, "Backend": {} }`: {EnableIPv4: true, EnableNFTables: true,
			Network: pfx("10.3.0.0/24"), SubnetLen: 26, SubnetMin: ip("10.3.0.64"), SubnetMax: ip("10.3.0.192")},
		`{ "Network": "10.3.0.0/28", "EnableIPv6": true, "IPv6Network": "fd00::/124", "Backend": {} }`: {EnableIPv4: true, Network: pfx("10.3.0.0/28"), SubnetLen: 30,
			SubnetMin: ip("10.3.0.4"), SubnetMax: ip("10.3.0.12"), EnableIPv6: true, IPv6Network: pfx("fd00::/124"), IPv6SubnetLen: 126, IPv6SubnetMin: ip("fd00::4"), IPv6SubnetMax: ip("fd00::c")},
	} {
		c, err := flannel.ParseConfig([]byte(doc))
		require.NoError(t, err, doc)
		c, err = c.Ranges()
		require.NoError(t, err, doc)
		require.Equal(t, want, c, doc)

		b, err := json.Marshal(c)
		require.NoError(t, err)
		again, err := flannel.ParseConfig(b)
		require.NoError(t, err, "%s", b)
		require.Equal(t, want, again)
	}
}

func TestWhatIsWrongWithAConfigurationIsToldWithKeyValueAndRemedy(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		``:                        `the flannel configuration is not a JSON object: unexpected end of JSON input: write { "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }`,
		`{}`:                      `Network is missing: state the range of all pods, such as "10.244.0.0/16", or set "EnableIPv4": false`,
		`{"EnableIPv4":false}`:    `EnableIPv4 false: no family is left: enable one`,
		`{"Network":"10.0.0.0"}`:  `Network "10.0.0.0" is not a range of ipv4: write one such as "10.244.0.0/16"`,
		`{"Network":"fd00::/48"}`: `Network "fd00::/48" is not a range of ipv4: write one such as "10.244.0.0/16"`,
		`{"Network":7}`:           `Network 7 is not a string: write it in quotes`,
		`{"Network":"10.0.0.0/8","EnableIPv6":true}`:                                         `IPv6Network is missing with EnableIPv6: state the range of all IPv6 pods, such as "fd00:10:244::/48"`,
		`{"Network":"10.0.0.0/8","EnableIPv6":"yes","SubnetLen":"24"}`:                       "EnableIPv6 \"yes\" is not true or false: write one of them without quotes\nSubnetLen \"24\" is not a number from 0 to 32: write one without quotes",
		`{"Network":"10.0.0.0/8","IPv6Network":"10.0.0.0/8"}`:                                `IPv6Network "10.0.0.0/8" is not a range of ipv6: write one such as "fd00:10:244::/48"`,
		`{"Network":"10.0.0.0/8","SubnetMin":"x"}`:                                           `SubnetMin "x" is not an address of ipv4: write the base of a range within the network, or leave it out`,
		`{"Network":"10.0.0.0/8","Backend":[]}`:                                              `Backend is not an object: write { "Type": "vxlan" }`,
		`{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","VNI":16777216}}`:                 `Backend.VNI 16777216 is not a number from 0 to 16777215: write one without quotes`,
		`{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","VNI":0}}`:                        `Backend.VNI 0 is no tunnel id of its own: state a number from 1 to 16777215, or leave it out`,
		`{"Network":"10.0.0.0/8","Backend":{"Type":"wireguard","PSK":{"secret":"hunter2"}}}`: `Backend.PSK is not a string: write it in quotes`,
	} {
		c, err := flannel.ParseConfig([]byte(doc))
		if doc != "" {
			want = "flannel configuration: " + want
		}
		require.EqualError(t, err, want, doc)
		require.Zero(t, c)
	}
}

func TestANetworkThatCannotBePartedIsRefused(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`{"Network":"10.3.0.0/29"}`:                                               `Network 10.3.0.0/29 is too small: state one of at most /28`,
		`{"Network":"10.3.0.0/16","SubnetLen":31}`:                                `SubnetLen 31 leaves no room for pods: state at most 30`,
		`{"Network":"10.3.0.0/16","SubnetLen":17}`:                                `SubnetLen 17 does not fit four times into Network 10.3.0.0/16: state at least 18`,
		`{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}`:                        `SubnetMin 10.4.0.0 is outside of Network 10.3.0.0/16: state the base of a range within`,
		`{"Network":"10.3.0.0/16","SubnetMax":"10.3.9.128"}`:                      `SubnetMax 10.3.9.128 is not the base of a /24: state 10.3.9.0`,
		`{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}`: `SubnetMax 10.3.8.0 is below SubnetMin 10.3.9.0: swap them`,
		`{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/125"}`:  `IPv6Network fd00::/125 is too small: state one of at most /124`,
	} {
		c, err := flannel.ParseConfig([]byte(doc))
		require.NoError(t, err, "in Kubernetes nobody parts it")
		_, err = c.Ranges()
		require.EqualError(t, err, "flannel configuration: "+want, doc)
	}
}

func TestRangesAreCountedAndNumbered(t *testing.T) {
	t.Parallel()
	c, err := flannel.ParseConfig([]byte(`{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/32","SubnetMin":"10.3.2.0"}`))
	require.NoError(t, err)
	c, err = c.Ranges()
	require.NoError(t, err)
	require.Equal(t, []netip.Prefix{pfx("10.3.0.0/16"), pfx("fd00::/32")}, c.Prefixes())
	four, six := c.Part(inet.IPv4), c.Part(inet.IPv6)
	require.Equal(t, 254, four.Count())
	require.Equal(t, pfx("10.3.2.0/24"), four.Range(0))
	require.Equal(t, pfx("10.3.255.0/24"), four.Range(253))
	require.Equal(t, 1<<32-1, six.Count())
	require.Equal(t, pfx("fd00:0:ffff:ffff::/64"), six.Range(six.Count()-1))
	for r, want := range map[string]bool{"10.3.2.0/24": true, "10.3.255.0/24": true, "10.3.1.0/24": false, "10.4.0.0/24": false, "10.3.2.0/25": false, "10.3.2.9/24": false, "fd00::/24": false} {
		require.Equal(t, want, four.Contains(pfx(r)), r)
	}
	require.False(t, four.Contains(netip.Prefix{}))
	c.EnableIPv6 = false
	require.Zero(t, c.Part(inet.IPv6).Count())
	wide := flannel.Part{Network: pfx("::/1"), Len: 126, Min: ip("::4"), Max: ip("7fff::")}
	require.Equal(t, int(^uint(0)>>1), wide.Count())
}

func TestABackendBecomesAnEncapsulationWithFlannelsDefaults(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]flannel.Encapsulation{
		`{"Type":"vxlan"}`: {Type: "vxlan", VNI: 1, Port: 8472},
		`{"Type":"vxlan","VNI":4096,"Port":4789,"GBP":true,"Learning":true,"DirectRouting":true,"MTU":1400}`: {Type: "vxlan", VNI: 4096, Port: 4789, GBP: true, Learning: true, DirectRouting: true, MTU: 1400},
		`{"Type":"host-gw","VNI":7}`:           {Type: "host-gw"},
		`{"type":"ipip","DirectRouting":true}`: {Type: "ipip", DirectRouting: true},
		`{"Type":"wireguard"}`:                 {Type: "wireguard", Port: 51820, PortV6: 51821, Mode: "separate"},
		`{"Type":"wireguard","Mode":"auto","ListenPort":7,"PersistentKeepaliveInterval":25,"PSK":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}`: {Type: "wireguard", Port: 7, Mode: "auto",
			Keepalive: 25 * time.Second, PSK: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="},
		`{"Type":"geneve","VNI":9}`: {Type: "geneve", VNI: 9},
		`{"Type":"gre"}`:            {Type: "gre"},
	} {
		c, err := flannel.ParseConfig([]byte(`{"Network":"10.0.0.0/8","Backend":` + doc + `}`))
		require.NoError(t, err, doc)
		e, err := c.Encapsulation()
		require.NoError(t, err, doc)
		require.Equal(t, want, e, doc)
	}
	for doc, want := range map[string]string{
		`null`:                             `Backend.Type "udp" is not one that is known here: state one of vxlan, host-gw, ipip, wireguard, gre, geneve`,
		`{"Type":"aws-vpc","VNI":"?"}`:     `Backend.Type "aws-vpc" is not one that is known here: state one of vxlan, host-gw, ipip, wireguard, gre, geneve`,
		`{"Type":"wireguard","Mode":"x"}`:  `Backend.Mode "x" is not known: state separate, auto, ipv4 or ipv6`,
		`{"Type":"wireguard","PSK":"abc"}`: `Backend.PSK is not a preshared key: write 32 bytes in base64, 44 characters, as "wg genpsk" prints them`,
	} {
		c, err := flannel.ParseConfig([]byte(`{"Network":"10.0.0.0/8","Backend":` + doc + `}`))
		require.NoError(t, err, doc)
		_, err = c.Encapsulation()
		require.EqualError(t, err, "flannel configuration: "+want, doc)
	}
}

func TestAPresharedKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	c, err := flannel.ParseConfig([]byte(`{"Network":"10.0.0.0/8","Backend":{"Type":"wireguard","PSK":"hunter2"}}`))
	require.NoError(t, err)
	require.EqualValues(t, "hunter2", c.Backend.PSK)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(format, c), "hunter2")
	}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.NotContains(t, string(b), "hunter2")
	require.Empty(t, flannel.Secret("").String())
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }
