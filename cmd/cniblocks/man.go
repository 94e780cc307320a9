//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	build "github.com/cniblocks/cniblocks/internal/base/version"
)

const manText = `Usage: cniblocks man DIR

Writes the manual pages of cniblocks and of each command into DIR/man8, and that of agent.json into DIR/man5. They are
made from the help texts and the tables of the options themselves. 'make install' and the package put them in place.

  cniblocks man /usr/local/share/man
`

func man(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("man", manText)
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if len(words) == 0 {
		fmt.Fprintln(errs, "cniblocks man: want the directory that gets the pages; 'cniblocks man --help' explains")
		return misuse
	}
	for name, text := range manPages() {
		path := filepath.Join(words[0], "man"+name[len(name)-1:], name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			return complain(errs, "man", err)
		}
	}
	return 0
}

// manPages are the pages by their file names.
func manPages() map[string]string {
	all := map[string]string{}
	var program strings.Builder
	usage(&program)
	intro, _, _ := strings.Cut(program.String(), "\n")
	top := head("cniblocks", "8", "show, keep and clean up the pod networks of a node") +
		".SH SYNOPSIS\n.B cniblocks\n.I COMMAND\n.RI [ OPTIONS ]\n.SH DESCRIPTION\n" + roff(intro) + "\n.SH COMMANDS\n"
	var others []string
	for _, c := range commands() {
		name := "cniblocks-" + c.name
		others = append(others, ".BR "+roff(name)+" (8)")
		top += ".TP\n.BR " + roff(name) + " (8)\n" + roff(c.brief) + "\n"
		all[name+".8"] = commandPage(c)
		if c.name == "agent" {
			all["cniblocks-agent.json.5"] = configPage(c)
		}
	}
	others = append(others, ".BR "+roff("cniblocks-agent.json")+" (5)")
	all["cniblocks.8"] = top + exitStatus + ".SH SEE ALSO\n" + strings.Join(others, ",\n") + "\n"
	return all
}

const exitStatus = ".SH EXIT STATUS\n0, 1 for a failure, 2 for a wrong call.\n"

func commandPage(c command) string {
	o := c.options()
	line, text, _ := strings.Cut(strings.TrimPrefix(o.text, "Usage: "), "\n")
	page := head("cniblocks-"+c.name, "8", c.brief) + ".SH SYNOPSIS\n" + roff(line) + "\n.SH DESCRIPTION\n" + prose(text)
	if table := o.table(); len(table) > 0 {
		page += ".SH OPTIONS\n"
		for _, l := range table {
			page += ".TP\n.B " + roff(l.name) + "\n"
			if l.value != "" {
				page = strings.TrimSuffix(page, "\n") + ` \fI` + roff(l.value) + `\fR` + "\n"
			}
			page += roff(l.what) + "\n"
		}
	}
	more := ""
	if c.name == "agent" {
		more = ",\n.BR " + roff("cniblocks-agent.json") + " (5)"
	}
	return page + exitStatus + ".SH SEE ALSO\n.BR cniblocks (8)" + more + "\n"
}

// configPage is that of the agent's file: the keys are the options.
func configPage(c command) string {
	page := head("cniblocks-agent.json", "5", "the options of cniblocks agent in a file") + `.SH DESCRIPTION
A JSON object, which
.B cniblocks agent
reads where
.B \-\-config
names it, as
.I /etc/cniblocks/agent.json
by the unit of systemd. Its keys are the options of the command without their dashes. A value is a string, a number, true or
false; several are a list, or one string with commas between them. What stands on the command line or in the environment counts
before it. An unknown key is an error.
.SH KEYS
`
	for _, l := range c.options().table() {
		if key := strings.TrimLeft(l.name, "-"); key != "config" {
			page += ".TP\n.B " + roff(key) + "\n" + roff(l.what) + "\n"
		}
	}
	return page + ".TP\n.B " + roff(secret) + "\nthe password for etcd, which is no option, since everybody can read those\n" +
		".SH EXAMPLES\n.nf\n{\\(dqsource\\(dq: \\(dqetcd://192.0.2.1:2379\\(dq, \\(dqinterface\\(dq: \\(dqeth.*\\(dq}\n.fi\n.SH SEE ALSO\n.BR " + roff("cniblocks-agent") + " (8)\n"
}

func head(name, section, brief string) string {
	return fmt.Sprintf(".\\\" %s\n.TH %s %s %s \"cniblocks %s\"\n.SH NAME\n%s \\- %s\n",
		madeBy, roff(strings.ToUpper(name)), section, date(), roff(strings.Split(build.String(), ",")[0]), roff(name), roff(brief))
}

// date is of the commit that was built, else today's.
func date() string {
	at := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" && len(s.Value) >= len(time.DateOnly) {
				at = s.Value[:len(time.DateOnly)]
			}
		}
	}
	return cmp.Or(at, time.Now().UTC().Format(time.DateOnly))
}

// prose is a help text: paragraphs, and lines that begin with spaces as they are.
func prose(text string) string {
	var out strings.Builder
	open := false
	for part := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		if title, ok := strings.CutSuffix(part, ":"); ok && title == "Examples" {
			out.WriteString(".SH EXAMPLES\n")
			open = false
			continue
		}
		if open {
			out.WriteString(".PP\n")
		}
		open = true
		if strings.HasPrefix(part, "  ") {
			out.WriteString(".nf\n" + roff(part) + "\n.fi\n")
		} else {
			out.WriteString(roff(part) + "\n")
		}
	}
	return out.String()
}

// roff is a text that means nothing to roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
