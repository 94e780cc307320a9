package inet_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestAnAddressHasAFamilyUnlessItIsMapped(t *testing.T) {
	t.Parallel()
	require.Equal(t, inet.IPv4, inet.FamilyOf(addr("192.0.2.1")))
	require.Equal(t, inet.IPv6, inet.FamilyOf(addr("2001:db8::1")))
	require.Zero(t, inet.FamilyOf(addr("::ffff:192.0.2.1")))
	require.Zero(t, inet.FamilyOf(netip.Addr{}))
	require.Equal(t, "0.0.0.0/0", inet.IPv4.Default().String())
	require.Equal(t, "::/0", inet.IPv6.Default().String())
	require.False(t, inet.Family(0).Default().IsValid())
	require.Equal(t, "ipv4 ipv6 no family", inet.IPv4.String()+" "+inet.IPv6.String()+" "+inet.Family(0).String())
	require.Equal(t, "IPv4 IPv6 no family", inet.IPv4.Title()+" "+inet.IPv6.Title()+" "+inet.Family(0).Title())
}

func TestAMACIsReadInItsFourForms(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0a:58:0a:f4:01:02", "0A-58-0a-F4-01-02", "0a58.0af4.0102", "0a580AF40102"} {
		m, err := inet.ParseMAC(s)
		require.NoError(t, err, s)
		require.Equal(t, "0a:58:0a:f4:01:02", m.String())
	}
	for _, s := range []string{"", "0a:58:0a:f4:01", "0a:58:0a:f4:01:02:03", "0a:58-0a:f4:01:02", "0a58:0af4:0102", "0a580af4010",
		"0a:58:0a:f4:01:0g", "0a:58:0a:f4:1:02", ":0a:58:0a:f4:0102", "0a.58.0a.f4.01.02", "a:b"} {
		_, err := inet.ParseMAC(s)
		require.ErrorContains(t, err, "want six octets", s)
	}
	for _, s := range []string{"00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"} {
		_, err := inet.ParseMAC(s)
		require.ErrorIs(t, err, inet.ErrGroup, s)
	}
}

func TestAMACIsTextInJSON(t *testing.T) {
	t.Parallel()
	var v struct{ A, B inet.MAC }
	require.NoError(t, json.Unmarshal([]byte(`{"A":"0a:58:0a:f4:01:02","B":""}`), &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	require.Equal(t, `{"A":"0a:58:0a:f4:01:02","B":""}`, string(b))
	require.Error(t, json.Unmarshal([]byte(`{"A":"x"}`), &v))
}

// The standard library's parser is the second opinion: it takes the all-zero address, groups, and 8 or 20 octets as well.
func FuzzAMACReadsAsTheStandardLibraryHasIt(f *testing.F) {
	for _, s := range []string{"0a:58:0a:f4:01:02", "0a-58-0a-f4-01-02", "0a58.0af4.0102", "00:00:00:00:00:00", "0a:58-0a:f4:01:02", "::::::::::::::::", "............"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := inet.ParseMAC(s)
		hw, e := net.ParseMAC(s)
		want := e == nil && len(hw) == 6 && hw[0]&1 == 0 && hw.String() != "00:00:00:00:00:00"
		require.Equal(t, want, err == nil, "%q: %v", s, err)
		if want {
			require.Equal(t, hw.String(), m.String())
		}
	})
}

func TestARangeKnowsItsAddresses(t *testing.T) {
	t.Parallel()
	r := inet.RangeOf(netip.MustParsePrefix("192.0.2.9/30"))
	require.Equal(t, "192.0.2.8-192.0.2.11", r.String())
	require.NoError(t, r.Validate())
	require.True(t, r.Contains(addr("192.0.2.8")) && r.Contains(addr("192.0.2.11")))
	require.False(t, r.Contains(addr("192.0.2.12")) || r.Contains(addr("::")))
	require.True(t, r.Overlaps(inet.Range{Start: addr("192.0.2.0"), End: addr("192.0.2.8")}))
	require.False(t, r.Overlaps(inet.RangeOf(netip.MustParsePrefix("::/0"))))
	require.Equal(t, []inet.Range{r}, r.Without(addr("192.0.2.7")))
	require.Equal(t, []inet.Range{{addr("192.0.2.8"), addr("192.0.2.8")}, {addr("192.0.2.10"), addr("192.0.2.11")}}, r.Without(addr("192.0.2.9")))
	require.Equal(t, []inet.Range{{addr("192.0.2.9"), addr("192.0.2.11")}}, r.Without(addr("192.0.2.8")))
	require.Empty(t, inet.Range{Start: addr("::1"), End: addr("::1")}.Without(addr("::1")))
	for _, bad := range []inet.Range{{}, {Start: addr("::1")}, {addr("::1"), addr("192.0.2.1")}, {addr("192.0.2.2"), addr("192.0.2.1")},
		{addr("::ffff:192.0.2.1"), addr("::ffff:192.0.2.1")}, {addr("fe80::1%eth0"), addr("fe80::2%eth0")}} {
		require.Error(t, bad.Validate(), "%v", bad)
	}
}
