package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func rng(subnet, start, end, gateway string) Range {
	return Range{netip.MustParsePrefix(subnet), addr(start), addr(end), addr(gateway)}
}

func pool(subnets ...string) Pool {
	var p Pool
	for _, s := range subnets {
		p = append(p, rng(s, "", "", ""))
	}
	return p
}

func TestRangeDefaultsAreThoseOfTheReferenceAndSmallSubnetsAreHandedOutWhole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want Range }{
		{rng("10.1.0.0/16", "", "", ""), rng("10.1.0.0/16", "10.1.0.1", "10.1.255.254", "10.1.0.1")},
		{rng("10.1.0.0/29", "", "", "10.1.0.6"), rng("10.1.0.0/29", "10.1.0.1", "10.1.0.6", "10.1.0.6")},
		{rng("10.1.0.0/30", "", "", ""), rng("10.1.0.0/30", "10.1.0.1", "10.1.0.2", "10.1.0.1")},
		{rng("10.1.0.0/24", "10.1.0.0", "10.1.0.255", ""), rng("10.1.0.0/24", "10.1.0.0", "10.1.0.255", "10.1.0.1")},
		{rng("10.1.0.0/24", "::ffff:10.1.0.7", "", "169.254.1.1"), rng("10.1.0.0/24", "10.1.0.7", "10.1.0.254", "169.254.1.1")},
		{rng("fd00::/64", "", "", ""), rng("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1")},
		{rng("fd00::/126", "", "", ""), rng("fd00::/126", "fd00::1", "fd00::3", "fd00::1")},
		{rng("10.1.0.2/31", "", "", ""), rng("10.1.0.2/31", "10.1.0.2", "10.1.0.3", "")},
		{rng("10.1.0.2/31", "", "", "10.1.0.2"), rng("10.1.0.2/31", "10.1.0.2", "10.1.0.3", "10.1.0.2")},
		{rng("10.1.0.2/32", "", "", ""), rng("10.1.0.2/32", "10.1.0.2", "10.1.0.2", "")},
		{rng("fd00::2/127", "", "", ""), rng("fd00::2/127", "fd00::2", "fd00::3", "")},
		{rng("fd00::2/128", "", "", "fe80::1"), rng("fd00::2/128", "fd00::2", "fd00::2", "fe80::1")},
	} {
		got, err := c.in.Canonical()
		require.NoError(t, err)
		require.Equal(t, c.want, got)
		again, err := got.Canonical()
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}

func TestABadRangeSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Range{
		"subnet is missing: give one":                                                               {},
		"subnet 10.1.0.5/24 has host bits set: write 10.1.0.0/24":                                   rng("10.1.0.5/24", "", "", ""),
		"subnet ::ffff:10.1.0.0/120 is IPv4 written as IPv6: write it as IPv4":                      rng("::ffff:10.1.0.0/120", "", "", ""),
		"rangeStart 10.2.0.1 is not in subnet 10.1.0.0/24: give one of its addresses":               rng("10.1.0.0/24", "10.2.0.1", "", ""),
		"rangeEnd fd00::9 is not in subnet 10.1.0.0/24: give one of its addresses":                  rng("10.1.0.0/24", "", "fd00::9", ""),
		"rangeEnd 10.1.0.4 is before rangeStart 10.1.0.9: swap them":                                rng("10.1.0.0/24", "10.1.0.9", "10.1.0.4", ""),
		"gateway fd00::1 is not of the family of subnet 10.1.0.0/24":                                rng("10.1.0.0/24", "", "", "fd00::1"),
		"gateway fe80::1%eth0 is not of the family of subnet fd00::/64: give an address of that fa": rng("fd00::/64", "", "", "fe80::1%eth0"),
		"range 10.1.0.1-10.1.0.1 has only the gateway's address":                                    rng("10.1.0.0/24", "", "10.1.0.1", ""),
	} {
		_, err := r.Canonical()
		require.ErrorContains(t, err, want)
	}
}

func TestAGatewayThatNoHostCanHaveIsRefused(t *testing.T) {
	t.Parallel()
	for gateway, subnets := range map[string][]string{
		"127.0.0.1 is the loopback":                                 {"10.1.0.0/24", "10.1.0.0/31", "10.1.0.9/32"},
		"224.0.0.1 is a multicast group":                            {"10.1.0.0/24"},
		"255.255.255.255 is the broadcast address":                  {"10.1.0.0/24", "10.1.0.9/32"},
		"0.0.0.0 is the unspecified address":                        {"10.1.0.0/24"},
		"10.1.0.0 is the own address of subnet 10.1.0.0/24":         {"10.1.0.0/24"},
		"10.1.0.255 is the broadcast address of subnet 10.1.0.0/24": {"10.1.0.0/24"},
		"10.1.0.3 is the broadcast address of subnet 10.1.0.0/30":   {"10.1.0.0/30"},
		":: is the unspecified address":                             {"fd00::/64", "fd00::/127"},
		"::1 is the loopback":                                       {"fd00::/64"},
		"ff00:: is a multicast group":                               {"fd00::/64"},
		"ff02::1 is a multicast group":                              {"fd00::/64"},
		"fd00:: is the own address of subnet fd00::/64":             {"fd00::/64"},
	} {
		address, _, _ := strings.Cut(gateway, " ")
		for _, subnet := range subnets {
			_, err := rng(subnet, "", "", address).Canonical()
			require.ErrorContains(t, err, "gateway "+gateway+", which no host can have: give the address of a host", subnet)
		}
	}
	for _, r := range []Range{
		rng("10.1.0.0/31", "", "", "10.1.0.0"), rng("10.1.0.0/31", "", "", "10.1.0.1"), rng("10.1.0.0/32", "", "", "10.9.0.0"),
		rng("fd00::/127", "", "", "fd00::"), rng("fd00::/128", "", "", "fe80::1"), rng("fd00::/126", "", "", "fd00::3"),
	} {
		_, err := r.Canonical()
		require.NoError(t, err, r)
	}
	_, err := rng("224.1.0.0/24", "", "", "").Canonical()
	require.ErrorContains(t, err, "subnet 224.1.0.0/24 is of a multicast group: give one that hosts can have addresses of")
	_, err = rng("127.1.0.0/24", "", "", "").Canonical()
	require.ErrorContains(t, err, "subnet 127.1.0.0/24 is of the loopback")
}

func TestARangeDoesNotHandOutTheGatewayOfAnother(t *testing.T) {
	t.Parallel()
	one, other := Pool{rng("10.1.0.0/24", "", "", "")}, Pool{rng("10.2.0.0/24", "", "", "10.1.0.254")}
	_, err := Canonical(one, other)
	require.ErrorContains(t, err, "gateway 10.1.0.254 of subnet 10.2.0.0/24 is one of the addresses that range 10.1.0.1-10.1.0.254 hands out")
	for _, mended := range []Pool{{rng("10.1.0.0/24", "", "10.1.0.253", "")}, {rng("10.1.0.0/24", "", "", "10.1.0.254")}} {
		_, err = Canonical(mended, other)
		require.NoError(t, err)
	}
}

func TestPoolsMustNotBeEmptyNorMixFamiliesNorOverlap(t *testing.T) {
	t.Parallel()
	for want, pools := range map[string][]Pool{
		"range set 1: it has no range":                                                {pool("10.1.0.0/24"), {}},
		"range set 0: subnets 10.1.0.0/24 and fd00::/64 are of different families":    {pool("10.1.0.0/24", "fd00::/64")},
		"range set 0: range 1: subnet 10.1.1.1/24 has host bits":                      {pool("10.1.0.0/24", "10.1.1.1/24")},
		"ranges 10.1.0.1-10.1.0.254 and 10.1.0.129-10.1.0.254 overlap":                {pool("10.1.0.0/24", "10.1.0.128/25")},
		"range set 0 (10.1.0.1-10.1.0.254) and range set 2 (10.1.0.1-10.1.0.126) ove": {pool("10.1.0.0/24"), pool("fd00::/64"), pool("10.1.0.0/25")},
	} {
		_, err := Canonical(pools...)
		require.ErrorContains(t, err, want)
	}
	_, err := Canonical(Pool{rng("10.1.0.0/24", "", "10.1.0.9", ""), rng("10.1.0.0/24", "10.1.0.10", "", "")}, pool("fd00::/64"))
	require.NoError(t, err)
}

func TestTooManyRangesAreRefusedBeforeTheyAreCompared(t *testing.T) {
	t.Parallel()
	_, err := Canonical(make(Pool, 1<<20))
	require.ErrorContains(t, err, "1048576 ranges are more than 1024: join neighbours, or use larger subnets")
	_, err = Canonical(make([]Pool, 1<<20)...)
	require.ErrorContains(t, err, "1048576 ranges are more than 1024")
	many := make([]Pool, MaxRanges)
	for i := range many {
		many[i] = pool(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
	}
	_, err = Canonical(many...)
	require.NoError(t, err)
}

func TestRangesReadTheKeysOfTheConfiguration(t *testing.T) {
	t.Parallel()
	var p Pool
	const text = `[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.4","rangeEnd":"10.1.0.9","gateway":"10.1.0.3"},{"subnet":"10.2.0.0/24"}]`
	require.NoError(t, json.Unmarshal([]byte(text), &p))
	require.Equal(t, Pool{rng("10.1.0.0/24", "10.1.0.4", "10.1.0.9", "10.1.0.3"), rng("10.2.0.0/24", "", "", "")}, p)
	out, err := json.Marshal(p)
	require.NoError(t, err)
	require.JSONEq(t, text, string(out))
}

func TestThePoolIsTriedFromTheLastAddressOn(t *testing.T) {
	t.Parallel()
	p, err := Pool{rng("10.1.0.0/24", "10.1.0.2", "10.1.0.4", ""), rng("10.2.0.0/24", "10.2.0.8", "10.2.0.9", "")}.Canonical()
	require.NoError(t, err)
	walk := func(last string) (all []string) {
		for _, i := range p.after(addr(last)) {
			for a := i.first; !i.last.Less(a); a = a.Next() {
				all = append(all, a.String())
			}
		}
		return all
	}
	require.Equal(t, []string{"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.2.0.8", "10.2.0.9"}, walk(""))
	require.Equal(t, []string{"10.1.0.4", "10.2.0.8", "10.2.0.9", "10.1.0.2", "10.1.0.3"}, walk("10.1.0.3"))
	require.Equal(t, []string{"10.2.0.8", "10.2.0.9", "10.1.0.2", "10.1.0.3", "10.1.0.4"}, walk("10.1.0.4"))
	require.Equal(t, []string{"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.2.0.8", "10.2.0.9"}, walk("10.2.0.9"))
	require.Equal(t, walk(""), walk("192.0.2.1"))
}

func TestBlocksOfCoverAnIntervalUpToTheLastAddressThereIs(t *testing.T) {
	t.Parallel()
	list := func(first, last string) (all []string) {
		for b := range blocksOf(addr(first), addr(last)) {
			lo, hi := within(b, addr(first), addr(last))
			all = append(all, at(b, lo).String()+"-"+at(b, hi).String())
		}
		return all
	}
	require.Equal(t, []string{"10.1.255.254-10.1.255.255", "10.2.0.0-10.2.255.255", "10.3.0.0-10.3.0.4"}, list("10.1.255.254", "10.3.0.4"))
	require.Equal(t, []string{"255.255.255.9-255.255.255.255"}, list("255.255.255.9", "255.255.255.255"))
	require.Equal(t, []string{"fd00::ffff-fd00::ffff", "fd00::1:0-fd00::1:2"}, list("fd00::ffff", "fd00::1:2"))
	require.Equal(t, []string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		list("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
}
