//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// helpOptions are the options that the help of a command lists.
func helpOptions(t *testing.T, name string) (all []string) {
	t.Helper()
	_, out, _ := call(t, name, "--help")
	_, table, _ := strings.Cut(out, "\nOptions:\n\n")
	for _, m := range regexp.MustCompile(`(?m)^  (--?[a-z0-9-]+)`).FindAllStringSubmatch(table, -1) {
		all = append(all, m[1])
	}
	return all
}

// script writes the completion for a shell into a file.
func script(t *testing.T, shell string) string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("lane: needs the program %s", shell)
	}
	status, out, errs := call(t, "completion", shell)
	require.Zero(t, status, errs)
	path := filepath.Join(t.TempDir(), "completion")
	require.NoError(t, os.WriteFile(path, []byte(out), 0o600))
	printed, err := exec.Command(shell, "-n", path).CombinedOutput()
	require.NoError(t, err, "%s", printed)
	require.Empty(t, printed)
	return path
}

// bash completes the last of the words.
func bash(t *testing.T, path string, words ...string) []string {
	t.Helper()
	out, err := exec.Command("bash", append([]string{"--norc", "-c", `. "$0"; COMP_WORDS=(cniblocks "$@") COMP_CWORD=$#
		compopt() { :; } # there is no readline
		_cniblocks; printf '%s\n' "${COMPREPLY[@]}"`, path}, words...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Fields(string(out))
}

func TestBashCompletesCommandsOptionsAndValues(t *testing.T) {
	t.Parallel()
	path := script(t, "bash")
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "suffix"), nil, 0o600))
	for _, c := range []struct {
		words string
		want  []string
	}{
		{"sh", []string{"show"}},
		{"help cl", []string{"cleanup"}},
		{"overlay ", []string{"up", "down"}},
		{"overlay d", []string{"down"}},
		{"completion ", []string{"bash", "zsh", "fish"}},
		{"show --ad", []string{"--address"}},
		{"show -o ", []string{"text", "json"}},
		{"show pods --a", []string{"--address", "--all"}},
		{"agent --encap ge", []string{"geneve"}},
		{"agent --encap ", []string{"vxlan", "gre", "ipip", "geneve", "wireguard", "host-gw"}},
		{"agent --log-level ", []string{"debug", "info", "warn", "error"}},
		{"agent --underlay ", []string{"ipv4", "ipv6"}},
		{"install --forward ", []string{"ipv4", "ipv6", "ipv4,ipv6"}},
		{"agent --config " + dir + "/su", []string{dir + "/sub", dir + "/suffix"}},
		{"agent --state-dir " + dir + "/su", []string{dir + "/sub"}},
		{"man " + dir + "/su", []string{dir + "/sub"}},
		{"show --address ", nil},
		{"nothing --", nil},
	} {
		require.ElementsMatch(t, c.want, bash(t, path, strings.Split(c.words, " ")...), c.words)
	}
	for _, c := range commands() {
		require.ElementsMatch(t, append(helpOptions(t, c.name), "--help"), bash(t, path, c.name, "-"), c.name)
	}
}

func TestFishCompletesCommandsOptionsAndValues(t *testing.T) {
	t.Parallel()
	path := script(t, "fish")
	complete := func(line string) (all []string) {
		cmd := exec.Command("fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", path, line)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		for l := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(l), "\t")
			all = append(all, word)
		}
		return all
	}
	require.Equal(t, []string{"show"}, complete("cniblocks sh"))
	require.ElementsMatch(t, []string{"up", "down"}, complete("cniblocks overlay "))
	require.ElementsMatch(t, []string{"text", "json"}, complete("cniblocks show -o "))
	for _, c := range commands() {
		long := slices.DeleteFunc(append(helpOptions(t, c.name), "--help"), func(o string) bool { return !strings.HasPrefix(o, "--") })
		require.ElementsMatch(t, long, complete("cniblocks "+c.name+" --"), c.name)
	}
}

func TestZshIsToldEveryCommandAndOption(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(script(t, "zsh"))
	require.NoError(t, err)
	for _, c := range commands() {
		require.Contains(t, strings.ReplaceAll(string(b), `'\''`, "'"), "'"+c.name+":"+c.brief+"'\n")
		_, own, found := strings.Cut(string(b), "\t"+c.name+") _arguments")
		require.True(t, found, c.name)
		own, _, _ = strings.Cut(own, ";;")
		for _, o := range append(helpOptions(t, c.name), "--help") {
			require.Regexp(t, "'"+o+`[=+]?\[`, own, c.name)
		}
	}
}

func TestCompletionOfNoShellSaysWhichThereAre(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}} {
		status, out, errs := call(t, args...)
		require.Equal(t, misuse, status)
		require.Empty(t, out)
		require.Contains(t, errs, "want bash, zsh or fish")
	}
}

func TestEveryCommandHasAManualPageWithAllItsOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	status, _, errs := call(t, "man", dir)
	require.Zero(t, status, errs)
	page := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, "man"+name[len(name)-1:], name))
		require.NoError(t, err)
		return strings.NewReplacer(`\-`, "-", `\(aq`, "'").Replace(string(b))
	}
	top := page("cniblocks.8")
	for _, c := range commands() {
		require.Contains(t, top, ".BR cniblocks-"+c.name+" (8)\n"+c.brief)
		own := page("cniblocks-" + c.name + ".8")
		for _, o := range helpOptions(t, c.name) {
			require.Regexp(t, `(?m)^\.B `+o+`( |$)`, own)
			if c.name == "agent" && o != "--config" {
				require.Contains(t, page("cniblocks-agent.json.5"), ".B "+strings.TrimLeft(o, "-")+"\n")
			}
		}
	}
	status, _, errs = call(t, "man")
	require.Equal(t, misuse, status)
	require.Contains(t, errs, "want the directory")
	status, _, errs = call(t, "man", filepath.Join(dir, "man8", "cniblocks.8"))
	require.Equal(t, failed, status)
	require.Contains(t, errs, "not a directory")
}

func TestTheManualPagesAreRightRoff(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Skip("lane: needs the program mandoc")
	}
	dir := t.TempDir()
	status, _, errs := call(t, "man", dir)
	require.Zero(t, status, errs)
	pages, err := filepath.Glob(filepath.Join(dir, "man*", "*"))
	require.NoError(t, err)
	require.Len(t, pages, len(commands())+2)
	for _, p := range pages {
		out, err := exec.Command("mandoc", "-Tlint", "-Wwarning", p).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Empty(t, string(out))
		if _, err := exec.LookPath("groff"); err == nil {
			cmd := exec.Command("groff", "-man", "-ww", "-Tutf8", p)
			var complaint strings.Builder
			cmd.Stderr = &complaint
			out, err := cmd.Output()
			require.NoError(t, err)
			require.NotEmpty(t, out)
			require.Empty(t, complaint.String())
		}
	}
	out, err := exec.Command("mandoc", "-Tascii", filepath.Join(dir, "man8", "cniblocks-show.8")).Output()
	require.NoError(t, err)
	text := regexp.MustCompile(".\b").ReplaceAllString(string(out), "")
	require.Contains(t, text, "jq '.attachments[] | select(.pod == null)'")
}
