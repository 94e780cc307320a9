//go:build linux

package nstest

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/netns"
)

// Run calls a program in the namespace and returns what it prints.
func Run(t testing.TB, ns *netns.NS, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	require.NoError(t, ns.Do(func() error {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return nil
	}))
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// Ruleset is what the nft program lists, less what changes by itself.
func Ruleset(t testing.TB, ns *netns.NS) string {
	t.Helper()
	return Run(t, ns, "nft", "-s", "list", "ruleset")
}

// Firewall is what all programs list.
func Firewall(t testing.TB, ns *netns.NS) string {
	t.Helper()
	out := Ruleset(t, ns)
	for _, p := range []string{"iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"} {
		for line := range strings.Lines(Run(t, ns, p)) {
			if !strings.HasPrefix(line, "#") { // times
				counters := strings.IndexByte(line, '[')
				if counters < 0 {
					counters = len(line)
				}
				out += p + " " + strings.TrimSpace(line[:counters]) + "\n"
			}
		}
	}
	return out
}

// TouchTables makes the programs create their tables with the base chains, which they never remove.
func TouchTables(t testing.TB, ns *netns.NS) {
	t.Helper()
	for _, p := range []string{"iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"} {
		for _, c := range []string{"nat POSTROUTING", "filter FORWARD"} {
			table, chain, _ := strings.Cut(c, " ")
			Run(t, ns, p, "-w", "-t", table, "-A", chain, "-m", "comment", "--comment", "touch")
			Run(t, ns, p, "-w", "-t", table, "-F", chain)
		}
	}
}
