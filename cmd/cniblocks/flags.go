//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
	"github.com/cniblocks/cniblocks/netns"
)

// options are the flags of a subcommand; text is its help, above the list of the flags.
type options struct {
	*flag.FlagSet
	text string
}

func newOptions(name, text string) *options {
	o := &options{flag.NewFlagSet(name, flag.ContinueOnError), text}
	o.SetOutput(io.Discard)
	return o
}

// read takes flags before, between and after the words, of which there may be at most so many. When it is done the command
// is to return the status: help was asked for, or something is wrong and was said.
func (o *options) read(args []string, words int, out, errs io.Writer) (rest []string, status int, done bool) {
	for {
		err := o.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			if t, ok := out.(*taker); ok {
				t.options = o
			} else {
				o.help(out)
			}
			return nil, 0, true
		}
		if err != nil {
			fmt.Fprintf(errs, "cniblocks %s: %s; 'cniblocks %[1]s --help' explains\n", o.Name(), o.explain(err))
			return nil, misuse, true
		}
		if o.NArg() == 0 {
			break
		}
		rest, args = append(rest, o.Arg(0)), o.Args()[1:]
	}
	if len(rest) > words {
		fmt.Fprintf(errs, "cniblocks %s: %q is one word too many; 'cniblocks %[1]s --help' explains\n", o.Name(), rest[words])
		return nil, misuse, true
	}
	return rest, 0, false
}

// taker takes the options of a command in the place of its help.
type taker struct {
	io.Writer
	options *options
}

// options are those of the command.
func (c command) options() *options {
	var t taker
	c.run(context.Background(), []string{"--help"}, &t, io.Discard)
	return t.options
}

// option is a flag for people: its name with the dashes, the word for its value, "" for none, and what it is about.
type option struct{ name, value, what string }

// table are the flags, sorted by name.
func (o *options) table() (all []option) {
	o.VisitAll(func(f *flag.Flag) {
		value, what := flag.UnquoteUsage(f)
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			value = ""
		}
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		if !slices.Contains([]string{"", "false", "0"}, f.DefValue) && !strings.Contains(what, "default") {
			what += "; default: " + f.DefValue
		}
		all = append(all, option{name, value, what})
	})
	return all
}

// explain names the option that is wrong and what it takes, and the nearest one to an option that is not known.
func (o *options) explain(err error) string {
	said := err.Error()
	var name, value string
	for _, form := range []string{"invalid value %q for flag -%s", "invalid boolean value %q for -%s"} {
		if n, _ := fmt.Sscanf(said, form, &value, &name); n == 2 {
			name, _, _ = strings.Cut(name, ":")
			_, why, _ := strings.Cut(said, "-"+name+": ")
			return fmt.Sprintf("--%s is %q: %s", name, value, wanted(o.Lookup(name), why))
		}
	}
	if name, ok := strings.CutPrefix(said, "flag needs an argument: -"); ok {
		return fmt.Sprintf("--%s: %s", name, wanted(o.Lookup(name), ""))
	}
	unknown, ok := strings.CutPrefix(said, "flag provided but not defined: -")
	if !ok {
		return said
	}
	near, ok := nearest.Of(unknown, func(yield func(string) bool) {
		stop := false
		o.VisitAll(func(f *flag.Flag) { stop = stop || !yield(f.Name) })
	})
	if ok {
		return fmt.Sprintf("there is no option --%s; did you mean --%s?", unknown, near)
	}
	return fmt.Sprintf("there is no option --%s", unknown)
}

// wanted says what an option takes: as the error about its value does, if that tells it.
func wanted(f *flag.Flag, why string) string {
	if strings.Contains(why, "want ") {
		return why
	}
	if g, ok := f.Value.(flag.Getter); ok {
		if _, ok := g.Get().(bool); ok {
			return "want true or false"
		}
	}
	_, what := flag.UnquoteUsage(f)
	return "want " + what
}

// help prints the text and the flags in two columns.
func (o *options) help(w io.Writer) {
	fmt.Fprint(w, o.text)
	lines := o.table()
	column := 0
	for _, l := range lines {
		column = max(column, columns(l.heading())+4)
	}
	if len(lines) > 0 {
		fmt.Fprint(w, "\nOptions:\n\n")
	}
	for _, l := range lines {
		heading := "  " + l.heading()
		for _, part := range flow(l.what, page-column, page-column) {
			fmt.Fprintln(w, pad(heading, column)+part)
			heading = ""
		}
	}
}

// heading is the option with the word for its value.
func (l option) heading() string { return strings.TrimSpace(l.name + " " + l.value) }

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ", ") }

func (l *list) Set(s string) error {
	if s == "" {
		return errors.New("want a path")
	}
	*l = append(*l, s)
	return nil
}

// openNS opens the namespace at a path, or this process's own.
func openNS(path string) (*netns.NS, error) {
	if path == "" {
		return netns.Current()
	}
	if !strings.ContainsRune(path, '/') {
		path = netns.Dir + "/" + path
	}
	return netns.Open(path)
}

// isMachines reports whether the namespace is that of the machine itself, whose directories of leases and state are the
// usual ones: the namespace of the first process.
func isMachines(ns *netns.NS) bool {
	first, err := netns.Open("/proc/1/ns/net")
	if err != nil {
		return false
	}
	defer first.Close()
	return ns.Same(first)
}

func complain(errs io.Writer, name string, err error) int {
	hint := ""
	if os.Geteuid() != 0 && errors.Is(err, os.ErrPermission) {
		hint = "; try it with sudo"
	}
	fmt.Fprintf(errs, "cniblocks %s: %v%s\n", name, err, hint)
	return failed
}
