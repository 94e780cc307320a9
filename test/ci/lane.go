package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`: see `go doc test2json`, and `go help buildjson` for those of the build.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64
	ImportPath  string
	FailedBuild string
}

type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
)

// id names a test or subtest; without a test, a package as a whole.
type id struct{ pkg, test string }

func (i id) String() string {
	if i.test == "" {
		return i.pkg
	}
	return i.pkg + " " + i.test
}

func (i id) compare(o id) int {
	return 2*strings.Compare(i.pkg, o.pkg) + strings.Compare(i.test, o.test)
}

type result struct {
	outcome outcome // empty until the test has ended
	elapsed float64 // in seconds
	output  strings.Builder
}

// lane is what one run of go test did.
type lane struct {
	name    string
	results map[id]*result
	builds  map[string]*strings.Builder // output of the compiler, by import path
}

func newLane(name string) *lane {
	return &lane{name: name, results: map[id]*result{}, builds: map[string]*strings.Builder{}}
}

// read takes events until r ends, and tells what has happened to each package when it is over, ended as well.
func (l *lane) read(r io.Reader, tell io.Writer, ended func(pkg string)) error {
	d := json.NewDecoder(r)
	for {
		var e event
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("events of %s: %w", l.name, err)
		}
		l.add(e)
		if e.Test == "" && e.Package != "" && (e.Action == "pass" || e.Action == "fail") {
			l.tell(e, tell)
			ended(e.Package)
		}
	}
}

func (l *lane) add(e event) {
	if e.Action == "build-output" {
		b := l.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			l.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	key := id{e.Package, e.Test}
	r := l.results[key]
	if r == nil {
		r = &result{}
		l.results[key] = r
	}
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.outcome, r.elapsed = outcome(e.Action), e.Elapsed
	}
	if e.FailedBuild != "" && l.builds[e.FailedBuild] != nil {
		r.output.WriteString(l.builds[e.FailedBuild].String())
	}
}

// tests are those of one package, sorted; all if pkg is empty. A test that never ended is a failed one, and so is a
// package that failed without a failed test: it did not build, leaked, or died.
func (l *lane) tests(pkg string) []id {
	var out []id
	for key, r := range l.results {
		if pkg != "" && key.pkg != pkg || key.test == "" && !l.failedAsWhole(key.pkg) {
			continue
		}
		if r.outcome == "" {
			r.outcome = failed
			r.output.WriteString("did not end\n")
		}
		out = append(out, key)
	}
	slices.SortFunc(out, id.compare)
	return out
}

func (l *lane) failedAsWhole(pkg string) bool {
	if r := l.results[id{pkg, ""}]; r == nil || r.outcome != failed {
		return false
	}
	for key, r := range l.results {
		if key.pkg == pkg && key.test != "" && r.outcome != passed && r.outcome != skipped {
			return false
		}
	}
	return true
}

func (l *lane) tell(e event, w io.Writer) {
	count := map[outcome]int{}
	for _, key := range l.tests(e.Package) {
		r := l.results[key]
		count[r.outcome]++
		if r.outcome == failed {
			fmt.Fprintf(w, "FAILED in %s: %s\n%s", l.name, key, r.output.String())
		}
	}
	if whole := l.results[id{e.Package, ""}]; e.Action == "fail" && !l.failedAsWhole(e.Package) {
		fmt.Fprint(w, whole.output.String())
	}
	if len(count) > 0 {
		fmt.Fprintf(w, "%-5s %-60s %4d passed %3d failed %3d skipped %7.1f s\n",
			e.Action, e.Package, count[passed], count[failed], count[skipped], e.Elapsed)
	}
}

var (
	logged = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)$`)
	framed = regexp.MustCompile(`^\s*(=== |--- )`)
)

// complaint is what a failed test said, less what frames it and all but the first lines.
func (r *result) complaint() string {
	const most = 15
	var lines []string
	for line := range strings.Lines(r.output.String()) {
		if !framed.MatchString(line) && len(lines) < most {
			lines = append(lines, "  "+strings.TrimRight(line, "\n")+"\n")
		}
	}
	return strings.Join(lines, "")
}

// reason is the last thing that a skipped test said.
func (r *result) reason() string {
	var lines []string
	for line := range strings.Lines(r.output.String()) {
		line = strings.TrimRight(line, "\n")
		if m := logged.FindStringSubmatch(line); m != nil {
			lines = []string{m[1]}
		} else if len(lines) > 0 && !framed.MatchString(line) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, " ")
}
