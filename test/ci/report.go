package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The words by which a test says that another lane runs it; package nstest writes them.
const (
	inVM   = "runs in the vm lane"
	asRoot = "runs in the namespace lane"
)

// allowance is a line of the list of allowed skips: a package, below the module's root, a test as a pattern of
// path.Match, and why it may be skipped.
type allowance struct {
	pkg, test, why string
	used           bool
}

func parseAllowances(r io.Reader) ([]*allowance, error) {
	var out []*allowance
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 3 {
			return nil, fmt.Errorf("line %d: want a package, a test and a reason, got %q", n, line)
		}
		if _, err := path.Match(f[1], ""); err != nil {
			return nil, fmt.Errorf("line %d: test %q: %w", n, f[1], err)
		}
		out = append(out, &allowance{pkg: f[0], test: f[1], why: strings.Join(f[2:], " ")})
	}
	return out, s.Err()
}

func (a *allowance) covers(key id) bool {
	if key.pkg != a.pkg && !strings.HasSuffix(key.pkg, "/"+a.pkg) {
		return false
	}
	ok, err := path.Match(a.test, key.test)
	return ok && err == nil
}

// skip is a test that no lane ran.
type skip struct {
	id
	reason string
	why    string // it is allowed; empty where it is not
}

// failure is a test that failed, or what else must not be, and the beginning of what it said.
type failure struct{ what, said string }

// report is what all lanes together did.
type report struct {
	passed   int
	failures []failure
	skips    []skip
	notes    []string
	slow     []slow
}

// slow is a test, not a subtest, in one lane.
type slow struct {
	seconds float64
	lane    string
	id
}

// slowest are the ten slowest tests of all lanes.
func slowest(lanes []*lane) (all []slow) {
	for _, l := range lanes {
		for key, r := range l.results {
			if key.test != "" && !strings.Contains(key.test, "/") {
				all = append(all, slow{r.elapsed, l.name, key})
			}
		}
	}
	slices.SortFunc(all, func(a, b slow) int { return cmp.Or(cmp.Compare(b.seconds, a.seconds), a.compare(b.id)) })
	return all[:min(10, len(all))]
}

// wantVM is a pattern for -run that selects those tests of a package that wait for the virtual machine, down to the
// second level; empty if there are none.
func wantVM(l *lane, pkg string) string {
	var all []string
	for _, key := range l.tests(pkg) {
		if r := l.results[key]; r.outcome != skipped || !strings.Contains(r.reason(), inVM) {
			continue
		}
		var levels []string
		for _, name := range strings.SplitN(key.test, "/", 3) {
			levels = append(levels, "^"+regexp.QuoteMeta(name)+"$")
		}
		all = append(all, strings.Join(levels[:min(2, len(levels))], "/"))
	}
	return strings.Join(slices.Compact(all), "|")
}

// merge counts each test once: failed if it failed in any lane, else passed if it passed in one. missing are the words
// of skips whose lane could not run, which is allowed outside of CI.
func merge(lanes []*lane, allowed []*allowance, missing []string) report {
	rep := report{slow: slowest(lanes)}
	var ids []id
	for _, l := range lanes {
		ids = append(ids, l.tests("")...)
	}
	slices.SortFunc(ids, id.compare)
	for _, key := range slices.Compact(ids) {
		rep.count(key, lanes, allowed, missing)
	}
	for _, a := range allowed {
		if !a.used {
			rep.notes = append(rep.notes, fmt.Sprintf("allowed skip that did not happen: %s %s", a.pkg, a.test))
		}
	}
	return rep
}

func (rep *report) count(key id, lanes []*lane, allowed []*allowance, missing []string) {
	var ran bool
	var reasons []string
	for _, l := range lanes {
		r := l.results[key]
		switch {
		case r == nil:
		case r.outcome == failed:
			rep.failures = append(rep.failures, failure{fmt.Sprintf("in %s: %s", l.name, key), r.complaint()})
			return
		case r.outcome == passed:
			ran = true
		case r.outcome == skipped:
			reasons = append(reasons, r.reason())
		}
	}
	if ran {
		rep.passed++
		return
	}
	s := skip{id: key, reason: strings.Join(slices.Compact(reasons), "; then ")}
	for _, a := range allowed {
		if a.covers(key) {
			s.why, a.used = a.why, true
		}
	}
	for _, m := range missing {
		if s.why == "" && strings.Contains(s.reason, m) {
			s.why = "that lane could not run here"
		}
	}
	rep.skips = append(rep.skips, s)
	if s.why == "" {
		rep.failures = append(rep.failures, failure{what: fmt.Sprintf("skipped, and not in the list of allowed skips: %s: %s", key, s.reason)})
	}
}

// print says of each failure how it begins, since of a long log people keep the end, and ends with a line of counts. Failures
// are tests and everything else that must not be, so that it says "0 failed" exactly when all is well.
func (rep *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d tests run\n", rep.passed+rep.failedTests())
	for _, t := range rep.slow {
		fmt.Fprintf(w, "SLOW %7.1f s in %s: %s\n", t.seconds, t.lane, t.id)
	}
	for _, n := range rep.notes {
		fmt.Fprintln(w, "NOTE", n)
	}
	for _, s := range rep.skips {
		why := s.why
		if why == "" {
			why = "NOT ALLOWED"
		}
		fmt.Fprintf(w, "SKIPPED %s: %s (%s)\n", s.id, s.reason, why)
	}
	for _, f := range rep.failures {
		fmt.Fprintf(w, "FAILED %s\n%s", f.what, f.said)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", rep.passed, len(rep.failures), len(rep.skips)-rep.forbidden())
}

// forbidden skips count as failures, not as skips.
func (rep *report) forbidden() (n int) {
	for _, s := range rep.skips {
		if s.why == "" {
			n++
		}
	}
	return n
}

func (rep *report) failedTests() (n int) {
	for _, f := range rep.failures {
		if strings.HasPrefix(f.what, "in ") {
			n++
		}
	}
	return n
}
