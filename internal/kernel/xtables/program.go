//go:build linux

package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/start"
	"github.com/cniblocks/cniblocks/netns"
)

// Family is 4 or 6.
type Family int

func (f Family) prefix() string {
	if f == 6 {
		return "ip6tables"
	}
	return "iptables"
}

// ErrNoProgram says that the iptables programs are not installed.
var ErrNoProgram = errors.New("the iptables programs are not installed")

// Programs are the pair that reads and writes the tables of a family.
type Programs struct{ save, restore string }

// Find looks for the programs in PATH and where systems keep them. It returns [ErrNoProgram], with the remedy, if they
// are missing.
func Find(f Family) (Programs, error) { return find(f.prefix()) }

// FindLegacy looks for the programs that speak to the legacy tables: by their name, else those that [Find] finds if they
// are no iptables-nft.
func FindLegacy(ctx context.Context, f Family) (Programs, error) {
	p, err := find(f.prefix() + "-legacy")
	if err == nil {
		return p, nil
	}
	if p, other := find(f.prefix()); other == nil {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, p.save, "--version")
		cmd.Stdout = &out
		_ = start.Child(cmd.Run)
		if !bytes.Contains(out.Bytes(), []byte("nf_tables")) {
			return p, nil
		}
	}
	return Programs{}, err
}

// FindMentioned is [FindLegacy] if the legacy table is there and mentions a name, see [Legacy.Mentions].
func FindMentioned(ctx context.Context, ns *netns.NS, f Family, table, name string) (p Programs, there bool, err error) {
	t, err := ReadLegacy(ns, f, table)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err != nil || !t.Mentions(name) {
		return p, false, err
	}
	p, err = FindLegacy(ctx, f)
	return p, err == nil, err
}

func find(prefix string) (Programs, error) {
	save, ok1 := lookPath(prefix + "-save")
	restore, ok2 := lookPath(prefix + "-restore")
	if !ok1 || !ok2 {
		return Programs{}, fmt.Errorf("%s-save and %[1]s-restore: %w: install the package iptables", prefix, ErrNoProgram)
	}
	return Programs{save: save, restore: restore}, nil
}

// lookPath also finds a program where PATH is empty, as it is below some container runtimes.
func lookPath(name string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		return path, true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// Save reads a table. The program makes it, with its empty base chains, if it is not there.
func (p Programs) Save(ctx context.Context, ns *netns.NS, table string) (Ruleset, error) {
	out, err := run(ctx, ns, nil, p.save, "-t", table)
	return parse(out), err
}

// Restore applies lines to a table in one transaction, and leaves alone what they do not mention. It waits for other
// iptables programs.
func (p Programs) Restore(ctx context.Context, ns *netns.NS, table string, lines []string) error {
	script := "*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, err := run(ctx, ns, strings.NewReader(script), p.restore, "--noflush", "-w")
	return err
}

// Update applies what plan makes of a table. Another program may change it between the reading and the writing: plan is then
// called again with what is there now. Where it makes no lines nothing is written.
func (p Programs) Update(ctx context.Context, ns *netns.NS, table string, plan func(Ruleset) ([]string, error)) error {
	const tries = 5
	var failed error
	for range tries {
		rs, err := p.Save(ctx, ns, table)
		if err != nil {
			return err
		}
		lines, err := plan(rs)
		if err != nil || len(lines) == 0 {
			return err
		}
		if failed = p.Restore(ctx, ns, table, lines); failed == nil || ctx.Err() != nil {
			break
		}
	}
	return failed
}

func run(ctx context.Context, ns *netns.NS, stdin io.Reader, path string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	err := ns.Do(func() error {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &complaint
		return start.Child(cmd.Run)
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, tidy(complaint.String()))
	}
	return out.String(), nil
}

// tidy makes one line of what a program complained about, less its hints.
func tidy(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "Try `") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "; ")
}
