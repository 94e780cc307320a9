//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/trace"
)

// peerBenchmarks are the operations of the overlay package that are reported, by the name of their benchmark. Each has
// sub-benchmarks named by an encapsulation and a number of peers.
var peerBenchmarks = map[string]string{
	"SetFromEmpty":       "Set from empty",
	"SetOneChange":       "Set with one change",
	"RepairNoDifference": "Repair without a difference",
	"CheckNoDifference":  "Check without a difference",
}

// peers runs the benchmarks of the overlay package, which make namespaces of their own.
func peers(rep *report.Report, quick bool) {
	if _, err := os.Stat("./overlay"); err != nil {
		return
	}
	fmt.Fprintf(os.Stderr, "%-14s ", "peers")
	began := time.Now()
	var rec report.Recorder
	err := measurePeers(&rec, quick)
	if err != nil {
		rep.Failures = append(rep.Failures, "peers: "+err.Error())
	}
	fmt.Fprintf(os.Stderr, "%5.1f s %s\n", time.Since(began).Seconds(), outcome(err))
	rows := rec.Rows()
	rep.Rows = append(rep.Rows, rows...)
	rep.Series = append(rep.Series, series(rows)...)
}

// measurePeers runs the benchmarks for the time, and once more under strace for the number of system calls.
func measurePeers(rec *report.Recorder, quick bool) error {
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "overlay.test")
	if out, err := exec.Command("go", "test", "-c", "-o", program, "./overlay").CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmarks of package overlay: %w: %s", err, out)
	}
	count := "5"
	if quick {
		count = "2"
	}
	args := []string{"-test.run", "^$", "-test.bench", "^Benchmark(" + strings.Join(slices.Sorted(maps.Keys(peerBenchmarks)), "|") + ")$",
		"-test.benchtime", "3x", "-test.count"}
	cmd := exec.Command(program, append(args, count)...)
	cmd.Dir = "overlay"
	out, err := cmd.Output()
	recordPeers(rec, string(out))
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	if trace.Available() != nil {
		return nil
	}
	log := filepath.Join(dir, "strace")
	cmd = exec.Command("strace", append([]string{"-f", "-q", "-T", "-s", "200", "-o", log, program}, append(args, "1")...)...)
	cmd.Dir = "overlay"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	return countPeers(rec, f)
}

var (
	benchmarkName = regexp.MustCompile(`Benchmark(\w+)/([\w-]+)/(\d+)`)
	benchmarkLine = regexp.MustCompile(`^` + benchmarkName.String() + `(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)
	cpuTime       = regexp.MustCompile(`([\d.]+) cpu-ms/op`)
	allocated     = regexp.MustCompile(`(\d+) B/op`)
)

// recordPeers reads what go test -bench prints.
func recordPeers(rec *report.Recorder, out string) {
	for line := range strings.Lines(out) {
		m := benchmarkLine.FindStringSubmatch(line)
		if m == nil || peerBenchmarks[m[1]] == "" {
			continue
		}
		ns, _ := strconv.ParseFloat(m[4], 64)
		took := report.Measure{Value: ns / 1e6}
		if c := cpuTime.FindStringSubmatch(line); c != nil {
			took.CPU, _ = strconv.ParseFloat(c[1], 64)
		}
		if a := allocated.FindStringSubmatch(line); a != nil {
			bytes, _ := strconv.ParseFloat(a[1], 64)
			took.Allocated = bytes / 1e6
		}
		scenario, operation := peerRow(m)
		rec.Add(scenario, operation, report.Ours, "ms", took)
	}
}

func peerRow(name []string) (scenario, operation string) {
	return "peers " + name[3], name[2] + ": " + peerBenchmarks[name[1]]
}

// countPeers reads the log of strace -f. The benchmarks look at the CPU time before and after each operation, and the
// name of each is written when it has run.
func countPeers(rec *report.Recorder, log io.Reader) error {
	var runs []trace.Counts
	var now *trace.Counts
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		name := benchmarkName.FindStringSubmatch(line)
		switch {
		case strings.Contains(line, " getrusage(RUSAGE_SELF") && now == nil:
			now = &trace.Counts{}
		case strings.Contains(line, " getrusage(RUSAGE_SELF"):
			runs, now = append(runs, *now), nil
		case name != nil && len(runs) > 0 && peerBenchmarks[name[1]] != "":
			scenario, operation := peerRow(name)
			// The runtime of Go adds calls of its own now and then: the run with the fewest has the fewest of those.
			least := slices.MinFunc(runs, func(a, b trace.Counts) int { return a.Syscalls - b.Syscalls })
			rec.Count(scenario, operation, report.Ours, report.Counts{Syscalls: least.Syscalls, NetlinkWrites: least.NetlinkWrites})
			runs = nil
		case now != nil:
			now.Add(line)
		}
	}
	return lines.Err()
}
