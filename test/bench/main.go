//go:build linux

// Command bench measures the plugins of cniblocks against the reference plugins, in turns, in namespaces of its own.
//
//	go run ./test/bench -quick
//	go run ./test/bench -run 'snat|leases' -markdown docs/benchmarks.md -svg docs/benchmarks.svg
//
// Every round is checked: the pod has its address and route, its gateway answers, with SNAT the outside as well, and
// after DEL interfaces and leases are gone. Counts of processes and system calls come from separate runs under strace(1).
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
	"github.com/cniblocks/cniblocks/test/bench/internal/trace"
)

// options are the flags.
type options struct {
	Run     *regexp.Regexp
	Quick   bool
	Profile bool
	Rounds  int // at most so many; 0 is the scenario's own number
	Ours    string
	Ref     string
	TempDir string
	same    bool // both sides are the reference

	JSON, Markdown, SVG string
}

func main() {
	o, err := parse()
	if err == nil {
		if scratch.Dir() != "" {
			err = inside(o)
		} else {
			err = start(o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	pattern := flag.String("run", "", "only scenarios whose name matches this regular expression")
	list := flag.Bool("list", false, "list the scenarios and end")
	flag.BoolVar(&o.Quick, "quick", false, "fewer rounds and pods: two minutes")
	flag.BoolVar(&o.Profile, "profile", false, "print where the time of each operation goes, from its run under strace")
	flag.IntVar(&o.Rounds, "rounds", 0, "at most so many rounds of each scenario (0: as many as it needs)")
	flag.StringVar(&o.Ours, "ours", "bin", "directory of our plugins")
	flag.StringVar(&o.Ref, "ref", "", "directory of the reference plugins (default: built, "+reference.Version+")")
	flag.StringVar(&o.TempDir, "dir", "/var/tmp", "where to make the directory for leases, on a real file system")
	flag.StringVar(&o.JSON, "json", "", "write the result to this file as JSON")
	flag.StringVar(&o.Markdown, "markdown", "", "write the result to this file as a page")
	flag.StringVar(&o.SVG, "svg", "", "write the plots to this file; further ones get the plot's name before the suffix")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, fmt.Errorf("argument %q: only flags are taken", flag.Arg(0))
	}
	if *list {
		for _, s := range scenarios {
			fmt.Printf("%-14s %s\n", s.name, s.what)
		}
		os.Exit(0)
	}
	var err error
	if o.Run, err = regexp.Compile(*pattern); err != nil {
		return o, fmt.Errorf("-run: %w", err)
	}
	o.Ours, err = filepath.Abs(o.Ours)
	return o, err
}

// environment by which the outer program tells the inner one what it prepared.
const (
	envRef    = "CNIBLOCKS_BENCH_REFERENCE"
	envResult = "CNIBLOCKS_BENCH_RESULT"
)

// start prepares what needs the machine's network, runs the scenarios in scratch namespaces, and renders the result.
func start(o options) error {
	if _, err := os.Stat(filepath.Join(o.Ours, "bridge")); err != nil {
		return fmt.Errorf("our plugins: %w (run make build, or name their directory with -ours)", err)
	}
	ref, err := filepath.Abs(o.Ref)
	if o.Ref == "" {
		ref, err = reference.Build("bridge", "host-local", "loopback")
	}
	if err != nil {
		return err
	}
	result, err := os.CreateTemp("", "bench-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(result.Name())
	defer result.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := scratch.Start(ctx, o.TempDir, envRef+"="+ref, envResult+"="+result.Name()); err != nil {
		return err
	}
	var rep report.Report
	if err := json.NewDecoder(result).Decode(&rep); err != nil {
		return fmt.Errorf("result of the scenarios: %w", err)
	}
	if o.Run.MatchString("peers") {
		peers(&rep, o.Quick)
	}
	rep.Goals, rep.Introduction = judge(&rep), introduction
	return publish(o, &rep)
}

const introduction = "The plugins of cniblocks against the reference plugins, measured by `make bench` on the same machine, in " +
	"turns (A B B A), without a runtime in between: from before a plugin is started until it has ended. Both sides run in " +
	"network namespaces made for the purpose. In every round the attachment is tried: address and default route are there, the " +
	"gateway answers, with SNAT also a host outside that has no route back; after DEL both interfaces and the lease are gone. The programs of both " +
	"sides are files written in one piece, as `cniblocks install` does, which the kernel keeps in large pages."

// publish prints the report and writes the files that were asked for. Scenarios that failed are an error.
func publish(o options, rep *report.Report) error {
	fmt.Print(rep.Table())
	files := map[string][]byte{}
	if o.JSON != "" {
		b, err := json.MarshalIndent(rep, "", "\t")
		if err != nil {
			return err
		}
		files[o.JSON] = append(b, '\n')
	}
	var plots []report.Plot
	if o.SVG != "" {
		plots = rep.Plots(o.SVG)
		for _, p := range plots {
			files[p.File] = p.SVG
		}
	}
	if o.Markdown != "" {
		files[o.Markdown] = rep.Markdown(filepath.Dir(o.Markdown), plots)
	}
	var errs []error
	for name, content := range files {
		errs = append(errs, os.WriteFile(name, content, 0o644))
	}
	if n := len(rep.Failures); n > 0 {
		errs = append(errs, fmt.Errorf("%d scenarios failed", n))
	}
	return errors.Join(errs...)
}

// inside runs the scenarios in the scratch namespaces.
func inside(o options) error {
	if err := scratch.Enter(); err != nil {
		return err
	}
	rep := report.Report{
		Title: "Benchmarks", Command: command(),
		Date: time.Now().UTC().Truncate(time.Second), Machine: report.ThisMachine(),
		Ours: "cniblocks", Reference: "containernetworking/plugins " + reference.Version,
	}
	if o.same = o.Ours == os.Getenv(envRef); o.same {
		rep.Ours = rep.Reference + " (both sides: the difference is noise)"
	}
	if rep.Machine.Busy() {
		rep.Notes = append(rep.Notes, "the machine was busy with something else: times are longer and further apart than they need be")
	}
	rep.Machine.FileSystem = scratch.FileSystem(scratch.Dir())
	if err := trace.Available(); err != nil {
		rep.Notes = append(rep.Notes, err.Error())
	}
	var err error
	if o.Ours, err = snapshot(o.Ours, "ours"); err != nil {
		return err
	}
	if o.Ref, err = snapshot(os.Getenv(envRef), "reference"); err != nil {
		return err
	}
	var rec report.Recorder
	pods := &scratch.Pods{}
	for _, s := range scenarios {
		if !o.Run.MatchString(s.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%-14s ", s.name)
		r := &run{options: o, name: s.name, rec: &rec, pods: pods, lost: map[string]int{}}
		err := s.run(r)
		for arm, n := range r.lost {
			if n > 0 {
				rep.Notes = append(rep.Notes, fmt.Sprintf("%s, %s: %d echo requests right after ADD had to be repeated", s.name, arm, n))
			}
		}
		if err != nil {
			rep.Failures = append(rep.Failures, fmt.Sprintf("%s: %v", s.name, err))
			err = cmp.Or(pods.Discard(), err) // they may be attached still
		}
		fmt.Fprintf(os.Stderr, "%5.1f s %s\n", time.Since(began).Seconds(), outcome(err))
		if err := scratch.Quiesce(); err != nil {
			return err
		}
	}
	rep.Rows, rep.Series = rec.Rows(), series(rec.Rows())
	b, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv(envResult), b, 0o600)
}

// command is how this run was started.
func command() string {
	words := []string{"go run ./test/bench"}
	for _, arg := range os.Args[1:] {
		if strings.ContainsAny(arg, " |()*?$^[]") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

func outcome(err error) string {
	if err == nil {
		return ""
	}
	return "FAILED: " + err.Error()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
