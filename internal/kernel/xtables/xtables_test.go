//go:build linux

package xtables

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func iptables(t testing.TB, ns *netns.NS, f Family, args string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		return exec.Command(f.prefix()+"-legacy", append([]string{"-w"}, strings.Fields(args)...)...).Run()
	}), args)
}

func pair(first, last string) [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

func TestARuleComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	rules := map[Family][]Match{
		4: {
			{Src: pair("10.0.0.1", "10.0.0.9"), Comment: "cniblocks my pods", Target: "ACCEPT"},
			{Dst: pair("10.0.0.1", "10.0.0.1"), Established: true, Comment: "one", Target: "RETURN"},
			{Src: pair("10.0.0.1", "10.0.0.2"), Dst: pair("10.0.0.3", "10.0.0.4"), Target: "DROP"},
			{Comment: "none"},
		},
		6: {{Src: pair("fd00::1", "fd00::ffff"), Comment: `with # and ' and $(true)`, Target: "ACCEPT"}},
	}
	for _, legacy := range []bool{false, true} {
		for f, want := range rules {
			ns := nstest.New(t)
			p, err := Find(f)
			if legacy {
				p, err = FindLegacy(t.Context(), f)
			}
			require.NoError(t, err)
			lines := []string{":OURS - [0:0]"}
			for _, m := range want {
				lines = append(lines, "-A OURS "+m.String())
			}
			require.NoError(t, p.Restore(t.Context(), ns, "filter", append(lines, "-I FORWARD 1 -j OURS")))
			rs, err := p.Save(t.Context(), ns, "filter")
			require.NoError(t, err)
			var got []Match
			for _, r := range rs["OURS"].Rules {
				got = append(got, r.Match)
			}
			require.Equal(t, want, got)
			require.Equal(t, "ACCEPT", rs["FORWARD"].Policy)
			require.Equal(t, []Rule{{Match{Target: "OURS"}, "-j OURS"}}, rs["FORWARD"].Rules)

			err = p.Restore(t.Context(), ns, "filter", []string{"-A OURS -j NOSUCHCHAIN"})
			require.ErrorContains(t, err, "tables")
			_, err = ReadLegacy(ns, f, "filter")
			require.Equal(t, legacy, err == nil)
		}
	}
}

func TestALegacyTableIsReadWithoutAProgram(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, f := range []Family{4, 6} {
		ns := nstest.New(t)
		_, err := ReadLegacy(ns, f, "filter")
		require.ErrorIs(t, err, fs.ErrNotExist)

		iptables(t, ns, f, "-N OURS")
		iptables(t, ns, f, "-A INPUT -m comment --comment mine -j OURS")
		table, err := ReadLegacy(ns, f, "filter")
		require.NoError(t, err)
		require.False(t, table.ForwardDrops())
		require.True(t, table.Mentions("OURS"))
		require.True(t, table.Mentions("mine"))
		require.False(t, table.Mentions("OUR"))
		require.False(t, table.Mentions("THEIRS"))
		_, err = ReadLegacy(ns, f, "nat")
		require.ErrorIs(t, err, fs.ErrNotExist)

		iptables(t, ns, f, "-A FORWARD -j OURS")
		iptables(t, ns, f, "-P FORWARD DROP")
		iptables(t, ns, f, "-P INPUT DROP")
		table, err = ReadLegacy(ns, f, "filter")
		require.NoError(t, err)
		require.True(t, table.ForwardDrops())
		iptables(t, ns, f, "-P FORWARD ACCEPT")
		table, err = ReadLegacy(ns, f, "filter")
		require.NoError(t, err)
		require.False(t, table.ForwardDrops())
	}
}

func TestTheTablesOfTheProcessesOwnNamespaceAreRead(t *testing.T) {
	t.Parallel()
	home, err := netns.Current()
	require.NoError(t, err)
	defer home.Close()
	direct, directErr := legacyTables(home, 4)
	var there []byte
	err = home.Do(func() (err error) {
		if there, err = os.ReadFile("/proc/thread-self/net/ip_tables_names"); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	require.Equal(t, errors.Is(err, fs.ErrPermission), errors.Is(directErr, fs.ErrPermission)) // to a plain user
	require.Equal(t, strings.Fields(string(there)), append([]string{}, direct...))
}

func TestRulesOfOthersAreKnownToHoldMore(t *testing.T) {
	t.Parallel()
	rs := parse(`*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:34]
:OURS - [0:0]
-A FORWARD -p tcp -m tcp --dport 80 -m comment --comment "a \"quoted\" \\ comment" -j ACCEPT
-A FORWARD ! -s 10.0.0.0/8 -j DROP
-A FORWARD -m iprange --src-range 10.0.0.5 -j OURS
-A FORWARD -m iprange --src-range bad-worse -j OURS
-A FORWARD -m conntrack --ctstate NEW -j OURS
COMMIT
`)
	require.Equal(t, Chain{Policy: "ACCEPT"}, rs["INPUT"])
	require.Equal(t, "DROP", rs["FORWARD"].Policy)
	require.Equal(t, "-", rs["OURS"].Policy)
	rules := rs["FORWARD"].Rules
	require.Equal(t, Match{Comment: `a "quoted" \ comment`, Target: "ACCEPT", Other: true}, rules[0].Match)
	require.True(t, rules[1].Other)
	require.Equal(t, Match{Src: pair("10.0.0.5", "10.0.0.5"), Target: "OURS"}, rules[2].Match)
	require.True(t, rules[3].Other)
	require.True(t, rules[4].Other)
}

func TestProgramsThatAreMissingAreAnErrorWithTheRemedy(t *testing.T) {
	t.Parallel()
	_, err := find("no-such-tables")
	require.ErrorIs(t, err, ErrNoProgram)
	require.ErrorContains(t, err, "no-such-tables-restore")
	require.ErrorContains(t, err, "install the package iptables")
}

func FuzzParse(f *testing.F) {
	f.Add(`-m comment --comment "a \"b\" c" -j ACCEPT`)
	f.Add(`-m iprange --src-range 10.0.0.1-10.0.0.2 --dst-range fd00::1 -m conntrack --ctstate RELATED,ESTABLISHED -j`)
	f.Fuzz(func(t *testing.T, line string) {
		m := parseMatch(words(line))
		if m.Other || strings.ContainsAny(m.Comment+m.Target, "\"\\\r\n") || strings.Contains(m.Target, " ") || m.Comment != strings.TrimSpace(m.Comment) || strings.HasPrefix(m.Target, "-") {
			return
		}
		if again := parseMatch(words(m.String())); again != m {
			t.Fatalf("%q reads as %+v, and that as %+v", line, m, again)
		}
	})
}

func TestAFingerprintChangesWithRulesAndPoliciesAndNotWithCounters(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	take := func() uint64 {
		t.Helper()
		sum, err := Fingerprint(ns)
		require.NoError(t, err)
		return sum
	}
	seen := map[uint64]string{take(): "nothing"}
	for _, f := range []Family{4, 6} {
		for _, args := range []string{"-P FORWARD DROP", "-A OUTPUT -j ACCEPT", "-I OUTPUT 1 -p udp -j ACCEPT", "-N OURS", "-A FORWARD -j OURS", "-t nat -A POSTROUTING -j ACCEPT"} {
			iptables(t, ns, f, args)
			sum := take()
			require.Equal(t, "", seen[sum], "%s %s", f.prefix(), args)
			seen[sum] = f.prefix() + args
		}
	}
	before := take()
	counted := func() string {
		var out []byte
		require.NoError(t, ns.Do(func() (err error) {
			out, err = exec.Command("iptables-legacy", "-w", "-nvxL", "OUTPUT").Output()
			return err
		}))
		return string(out)
	}
	was := counted()
	require.NoError(t, ns.Do(func() error {
		c, err := net.Dial("udp4", "127.0.0.1:9")
		if err == nil {
			_, err = c.Write([]byte("counts"))
			c.Close()
		}
		return err
	}))
	require.NotEqual(t, was, counted())
	require.Equal(t, before, take())
}
