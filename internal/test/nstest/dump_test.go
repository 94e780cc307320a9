//go:build linux

package nstest_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestADumperSeesEveryChangeOfThePacketFilters(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	d := nstest.Dumper{NS: ns}
	before, last := d.Dump(), ""
	for _, change := range []string{
		"add table inet t", "add chain inet t c { type filter hook input priority 0; }", "add rule inet t c counter accept",
		"add rule inet t c ip saddr 192.0.2.1 drop comment \"words\"", "add set inet t s { type ipv4_addr; }", "add element inet t s { 192.0.2.1 }",
		"add element inet t s { 192.0.2.2 comment \"more\" }", "delete element inet t s { 192.0.2.1 }", "add map inet t m { type ipv4_addr : verdict; }",
		"add element inet t m { 192.0.2.1 : jump c2 }", "add quota inet t q { over 1 mbytes; }", "add table bridge t", "add table ip nat",
		"add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }", "add rule ip nat POSTROUTING accept",
	} {
		if change == "add element inet t m { 192.0.2.1 : jump c2 }" {
			nft(t, ns, "add chain inet t c2")
		}
		nft(t, ns, change)
		now := d.Dump()
		require.NotEqual(t, last, now, change)
		require.Equal(t, nstest.Dump(ns), now, change)
		last = now
	}
	require.NotContains(t, last, "error:")
	if _, err := exec.LookPath("iptables-save"); err == nil {
		require.Contains(t, last, "-A POSTROUTING -j ACCEPT")
	}
	nft(t, ns, "flush ruleset")
	require.Equal(t, before, d.Dump())
}

func TestADumperDoesNotAskTwiceForTheSame(t *testing.T) {
	ns := nstest.New(t)
	d := nstest.Dumper{NS: ns}
	make := []string{"add table inet t", "add chain inet t c", "add rule inet t c drop"}
	nft(t, ns, make...)
	with := d.Dump()
	nft(t, ns, "delete table inet t")
	nft(t, ns, make...)
	path := t.TempDir()
	t.Setenv("PATH", path)
	require.Equal(t, with, d.Dump())
	require.NotEqual(t, with, nstest.Dump(ns))
	require.Contains(t, nstest.Dump(ns), `nftables rule 1 1="t\x00" 2="c\x00"`)
}
