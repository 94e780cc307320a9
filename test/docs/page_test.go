//go:build linux

package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// command is one of a page: a line of a block for a shell with all that belongs to it, or words between backquotes.
type command struct {
	text  string // without the comment behind it
	shown string // what the page prints below it
}

// pages are the texts for users, by their paths below the root.
func pages(t *testing.T) (names []string) {
	t.Helper()
	names = []string{"README.md"}
	for _, dir := range []string{"docs", "examples"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".md") {
				names = append(names, strings.TrimPrefix(path, root+"/"))
			}
			return err
		}))
	}
	return names
}

var (
	span    = regexp.MustCompile("`([^`]+)`")
	lower   = regexp.MustCompile(`^[a-z-]`)
	comment = regexp.MustCompile(`\s+#( .*|$)`)
	remark  = regexp.MustCompile(`\S(\s{3,}\S.*)$`) // in a block of no language: a column with what the command does
)

// programs begin the commands that stand in running text. A name alone is no command.
var programs = strings.Fields(`apt-get bridge cat cniblocks cp curl echo etcdctl ethtool go install ip iptables kubectl ls make mkdir nft ping
	podman printf rm sudo sysctl systemctl tracepath wg`)

// notCommands begin with the name of a program and are something else; so is cniblocks before a word that no command is
// called, which is a comment of the firewall.
var notCommands = []string{"cniblocks agent", "cniblocks install", "cniblocks overlay up",
	"cniblocks overlay down", "cniblocks wireguard pubkey", "cniblocks cleanup", "bridge cniblocks", "bridge nat", "ip nat", "ip filter"}

func commandsOf(t *testing.T, page string) (all []command) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, page))
	require.NoError(t, err)
	block, lang, indent, open := []string{}, "", "", false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if mark, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
			if open {
				all = append(all, ofBlock(lang, block)...)
			}
			block, lang, open = nil, mark, !open
			indent = line[:strings.Index(line, "`")]
			continue
		}
		if open {
			block = append(block, strings.TrimPrefix(line, indent))
			continue
		}
		for _, m := range span.FindAllStringSubmatch(strings.ReplaceAll(line, `\|`, "|"), -1) {
			words := strings.Fields(m[1])
			if len(words) < 2 || words[0] == "cniblocks" && !lower.MatchString(words[1]) {
				continue
			}
			if slices.Contains(programs, words[0]) && !slices.Contains(notCommands, m[1]) {
				all = append(all, command{text: m[1]})
			}
		}
	}
	require.False(t, open, page)
	return all
}

func ofBlock(lang string, lines []string) (all []command) {
	switch lang {
	case "sh":
		for len(lines) > 0 {
			n := 1
			for n < len(lines) && !whole(lines[:n]) {
				n++
			}
			text := strings.Join(lines[:n], "\n")
			if n == 1 {
				text = comment.ReplaceAllString(text, "")
			}
			if strings.TrimSpace(text) != "" {
				all = append(all, command{text: text})
			}
			lines = lines[n:]
		}
	case "console":
		for _, l := range lines {
			if text, ok := strings.CutPrefix(l, "$ "); ok {
				all = append(all, command{text: comment.ReplaceAllString(text, "")})
			} else {
				all[len(all)-1].shown += l + "\n"
			}
		}
	case "":
		for _, l := range lines {
			if words := strings.Fields(l); len(words) > 1 && slices.Contains(programs, words[0]) {
				if m := remark.FindStringSubmatchIndex(l); m != nil {
					l = l[:m[2]]
				}
				all = append(all, command{text: strings.TrimSpace(l)})
			}
		}
	}
	return all
}

// whole reports whether a shell would take the lines as complete.
func whole(lines []string) bool {
	text := strings.Join(lines, "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if _, doc, ok := strings.Cut(lines[0], "<<"); ok {
		return len(lines) > 1 && last == strings.TrimSpace(doc)
	}
	return strings.Count(text, "'")%2 == 0 && !strings.HasSuffix(last, "|") && !strings.HasSuffix(last, `\`) &&
		(!strings.HasPrefix(lines[0], "for ") || last == "done")
}
