//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/inventorytest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// call runs the program and returns what it prints.
func call(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), args, &o, &e)
	return status, o.String(), e.String()
}

func TestAMisspelledCommandNamesTheNearestOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"shwo", `cniblocks: there is no command "shwo"; did you mean "show"?`},
		{"clean-up", `cniblocks: there is no command "clean-up"; did you mean "cleanup"?`},
		{"frobnicate", `cniblocks: there is no command "frobnicate"; 'cniblocks help' lists them`},
		{"help shov", `cniblocks: there is no command "shov"; did you mean "show"?`},
		{"show --jsn", `cniblocks show: there is no option --jsn; 'cniblocks show --help' explains`},
		{"show --data-dri /x", `cniblocks show: there is no option --data-dri; did you mean --data-dir?; 'cniblocks show --help' explains`},
		{"show a b", `cniblocks show: "b" is one word too many; 'cniblocks show --help' explains`},
		{"show -o xml", `cniblocks show: -o xml: want text or json`},
		{"version now", `cniblocks version: "now" is one word too many; 'cniblocks version --help' explains`},
	} {
		status, out, errs := call(t, strings.Fields(c.args)...)
		require.Equal(t, misuse, status, c.args)
		require.Empty(t, out)
		require.Equal(t, c.want+"\n", errs)
	}
}

func TestHelpTeachesEachCommandWithExamples(t *testing.T) {
	t.Parallel()
	status, all, _ := call(t, "help")
	require.Zero(t, status)
	for _, c := range commands() {
		require.Contains(t, all, "  "+c.name)
		for _, args := range [][]string{{c.name, "--help"}, {"help", c.name}, {c.name, "-h"}} {
			status, out, errs := call(t, args...)
			require.Zero(t, status)
			require.Empty(t, errs)
			require.Contains(t, out, "Usage: cniblocks "+c.name)
			if c.name != "version" {
				require.Regexp(t, "\n  (sudo )?cniblocks "+c.name, out)
			}
		}
	}
}

func TestEveryOptionIsExplainedInAColumnOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, c := range commands() {
		_, out, _ := call(t, c.name, "--help")
		_, list, found := strings.Cut(out, "\nOptions:\n\n")
		require.Equal(t, !slices.Contains([]string{"completion", "man", "version"}, c.name), found)
		for line := range strings.Lines(list) {
			require.LessOrEqual(t, columns(line)-1, page, line)
			require.Regexp(t, `^(  --?[a-z0-9-]+( [A-Z:]+)?  +| +)[^ ].*\n$`, line, "name, what its value is, two spaces, text")
		}
	}
	_, out, _ := call(t, "agent", "--help")
	require.Regexp(t, `--resync TIME +TIME between two looks at everything; default: 3m0s\n`, out)
}

func TestWithoutACommandTheHelpIsAnErrorMessage(t *testing.T) {
	t.Parallel()
	status, out, errs := call(t)
	require.Equal(t, misuse, status)
	require.Empty(t, out)
	require.Contains(t, errs, "Usage: cniblocks COMMAND")
}

func TestVersionNamesTheSpokenVersionsOfCNI(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"version", "--version"} {
		status, out, _ := call(t, word)
		require.Zero(t, status)
		require.Regexp(t, `(?s)^cniblocks .* linux/.*CNI 0\.1\.0 to 1\.1\.0\n$`, out)
	}
}

// here are the options that keep a command to a test's world.
func here(w *inventorytest.World) []string {
	return []string{"--netns", w.Name, "--data-dir", w.DataDir, "--state-dir", w.RunDir}
}

func TestShowDrawsPodsWithAddressContainerAndLease(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := inventorytest.New(t)
	pin, _ := w.Add(w.Conf("blue", "1", nil), "web")
	status, out, errs := call(t, append([]string{"show"}, here(w)...)...)
	require.Zero(t, status, errs)
	out = strings.NewReplacer(pin, "PIN", w.Name, "NODE", w.DataDir, "/leases").Replace(out)
	golden(t, "pod.txt", unwrap(out))
}

// unwrap makes one line of each item: where lines break depends on the length of a test's paths.
func unwrap(picture string) string {
	var out []string
	for line := range strings.Lines(picture) {
		line = strings.TrimRight(line, "\n")
		if len(out) > 0 && !strings.Contains(line, "─ ") {
			out[len(out)-1] += " " + strings.TrimLeft(line, "│ ")
		} else {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n") + "\n"
}

func TestShowPrintsTheSameAsJSON(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	w.Add(w.Conf("red", "2", nil), "db")
	status, out, errs := call(t, append([]string{"show", "red", "-o", "json"}, here(w)...)...)
	require.Zero(t, status, errs)
	var n inventory.Node
	require.NoError(t, json.Unmarshal([]byte(out), &n))
	require.Len(t, n.Attachments, 1)
	require.Equal(t, "db", n.Attachments[0].ContainerID)
}

func TestShowOfAnUnknownNetworkNamesTheNearestOne(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	status, _, errs := call(t, append([]string{"show", "bleu"}, here(w)...)...)
	require.Equal(t, failed, status)
	require.Contains(t, errs, `did you mean "blue"?`)
	status, _, errs = call(t, append([]string{"show", "zzzzzz"}, here(w)...)...)
	require.Equal(t, failed, status)
	require.Contains(t, errs, `; there are: blue`)
}

func TestShowOfAContainerOrAnAddressThatIsNotHereSaysSo(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--container we --address 10.1.0.2", 0, ""},
		{"--address 192.0.2.1", 0, ""}, // the node's own
		{"--container db", failed, `no interface and no lease here is of a container whose ID begins with "db"`},
		{"--address 10.1.0.9", failed, "nothing here has the address 10.1.0.9 or leads to it"},
		{"--address 10.1.0.2/24", misuse, "--address 10.1.0.2/24: want an address such as 10.244.1.2, without a length"},
		{"--address fe80::1%eth0", misuse, "want an address"},
	} {
		status, out, errs := call(t, append(append([]string{"show"}, strings.Fields(c.args)...), here(w)...)...)
		require.Equal(t, c.status, status, errs)
		require.Contains(t, errs, c.want)
		require.Equal(t, c.status == 0, strings.Contains(out, "uplink uplink: 192.0.2.1/24"), out)
	}
}

func TestANamespaceThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"show", "cleanup --all"} {
		status, _, errs := call(t, append(strings.Fields(command), "--netns", "no-such-namespace")...)
		require.Equal(t, failed, status)
		require.Contains(t, errs, "/run/netns/no-such-namespace: no such file")
	}
}

func TestCleanupSaysWhatItWouldDoThenDoesItThenFindsNothing(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	args := append([]string{"cleanup", "--network", "blue"}, here(w)...)
	status, dry, errs := call(t, append(args, "--dry-run")...)
	require.Zero(t, status, errs)
	require.Empty(t, errs)
	w.Check(w.Conf("blue", "1", nil), "web")

	status, out, errs := call(t, args...)
	require.Zero(t, status, errs)
	require.Empty(t, errs)
	require.Equal(t, strings.ReplaceAll(dry, "would remove", "removed"), out)
	golden(t, "cleanup.txt", strings.ReplaceAll(out, w.DataDir, "/leases"))
	w.RequireAsBefore()

	status, out, errs = call(t, args...)
	require.Equal(t, failed, status)
	require.Empty(t, out)
	require.Equal(t, "cniblocks cleanup: there is no trace of a network \"blue\" here, nor of any other\n", errs)
	status, out, _ = call(t, append([]string{"cleanup", "--all"}, here(w)...)...)
	require.Zero(t, status)
	require.Equal(t, "nothing of cniblocks is here\n", out)
}

func TestCleanupOfAnUnknownNetworkIsAnErrorThatListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	w.Add(w.Conf("red", "2", nil), "db")
	status, out, errs := call(t, append([]string{"cleanup", "--network", "bleu"}, here(w)...)...)
	require.Equal(t, failed, status)
	require.Empty(t, out)
	require.Equal(t, "cniblocks cleanup: there is no trace of a network \"bleu\" here; did you mean \"blue\"?; there are: blue, red\n", errs)
	w.Check(w.Conf("blue", "1", nil), "web")
}

func TestCleanupOfAllNetworksWantsToBeTold(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	w.Add(w.Conf("red", "2", nil), "db")
	for _, more := range [][]string{nil, {"--dry-run"}, {"--all", "--network", "blue"}} {
		status, out, errs := call(t, slices.Concat([]string{"cleanup"}, more, here(w))...)
		require.Equal(t, misuse, status)
		require.Empty(t, out)
		require.Equal(t, "cniblocks cleanup: want either --network NAME or --all; 'cniblocks cleanup --help' explains\n", errs)
	}
	w.Check(w.Conf("blue", "1", nil), "web")
	status, _, errs := call(t, append([]string{"cleanup", "--all"}, here(w)...)...)
	require.Zero(t, status, errs)
	w.RequireAsBefore()
}

func TestCleanupFailsLoudlyAndGoesOn(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "web")
	// A directory that looks like a lease is neither readable nor removable as one.
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, "blue", "10.1.0.77"), 0o755))
	status, out, errs := call(t, append([]string{"cleanup", "--network", "blue"}, here(w)...)...)
	require.Equal(t, failed, status)
	require.Contains(t, out, "removed  bridge")
	require.Contains(t, errs, "10.1.0.77")
}
