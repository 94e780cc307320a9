//go:build linux

package main

import (
	"fmt"
	"math"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
)

// goal is a limit and where its value comes from.
type goal struct {
	name, unit string
	limit      float64
	source
}

// source finds a value; one that is not there is not measured. scenario and operation are set for a ratio of ours to the
// reference.
type source struct {
	value               func(*report.Report) (float64, bool)
	scenario, operation string
}

// why says of goals that are missed why they are.
var why = map[string]string{
	"ADD, plain": "start and end of a program in Go with these packages are half of it (scenario startup; nearly all of that is what one takes that does " +
		"nothing), and the kernel's work on the pair is a fifth",
	"ADD with SNAT": "as without SNAT",
	"ADD dual stack against IPv4 only (ours / ours)": "an address, a route and a gateway more, in the same writes, and a second lease",
	"DEL, plain":               "start and end of a program in Go are more than half of it; the reference mostly waits for the kernel, and no slow processor makes that longer",
	"DEL with SNAT":            "as without SNAT",
	"DEL beside 10 000 leases": "as without leases",
	"ADD beside 60 000 leases against an empty pool (ours / ours)": "the same system calls, of which three read a larger file; 1.03 in other runs",
	"200 ADD, 32 at a time, SNAT":                                  "the processors are busy all the time: what counts there is processor time, of which the start of the program is two fifths",
	"200 DEL, 32 at a time, plain":                                 "the processors are busy all the time, half of it with starts of the program, while those of the reference mostly wait",
	"200 DEL, 32 at a time, SNAT":                                  "the processors are busy all the time, half of it with starts of the program, while those of the reference mostly wait",
	"ADD beside 1000 pods with SNAT":                               "what it takes more than beside none is the kernel's: a bridge goes through its ports and entries when one is added, and the new pod's first IPv6 multicast goes to every port",
	"extra time of a new connection at 10 000 pods": "it is what masquerading takes: a node without pods, whose only rule masquerades everything, takes as long " +
		"(\"" + oneRule + "\")",
	"CHECK": "the goal is less than what start and end of the program take, which are three quarters of it",
	"GC with 1000 live and 1000 stale attachments": "nine tenths is the kernel's own: for every port that goes the bridge looks through all others, twice",
	"overlay, 10 000 peers: Set from empty": "two thirds is the kernel's own time for 30 000 objects, whoever writes them, and a third of that is its memory for each " +
		"processor, which every next hop and FDB entry has; the same code took 57 to 106 ms in runs of one day",
	"overlay, 10 000 peers: Repair without a difference": "the kernel's three lists are nine tenths of it; they are read side by side, which takes two processors that are free; the same code took 11 to 23 ms in runs of one day",
	"host-gw, 10 000 peers: Set from empty":              "two thirds is the kernel's own time for 10 000 routes; the same code took 28 to 44 ms in runs of one day",
	"ADD through overlay against bridge alone (ours / ours)": "some 20 system calls more (two small files, one question to the kernel), and a configuration " +
		"of three levels in place of two",
	"ADD through host-gw against bridge alone (ours / ours)": "as through overlay",
}

// goals are those that `make bench` judges by.
var goals = []goal{
	{"ADD, plain", "", 0.28, ratio("plain", "ADD")},
	{"ADD with SNAT", "", 0.14, ratio("snat", "ADD")},
	{"ADD: processes started", "processes", 1, worst("ADD", func(c *report.Cell) int { return c.Processes })},
	{"ADD: system calls", "calls", 350, worst("ADD", func(c *report.Cell) int { return c.Syscalls })},
	{"ADD: netlink writes", "writes", 6, worst("ADD", func(c *report.Cell) int { return c.NetlinkWrites })},
	{"ADD dual stack against IPv4 only (ours / ours)", "", 1.1, within("dual-stack", "ADD", report.Ours, "ours, IPv4 only")},
	{"first IPv6 ping after ADD", "ms", 3, median("dual-stack", "first IPv6 ping after ADD")},
	{"DEL, plain", "", 0.12, ratio("plain", "DEL")},
	{"DEL with SNAT", "", 0.04, ratio("snat", "DEL")},
	{"DEL of an owner that is not there, 60 000 leases", "", 0.01, ratio("leases 60000", strangerDEL)},
	{"ADD beside 10 000 leases", "", 0.04, ratio("leases 10000", "ADD")},
	{"DEL beside 10 000 leases", "", 0.04, ratio("leases 10000", "DEL")},
	{"ADD beside 60 000 leases", "", 0.01, ratio("leases 60000", "ADD")},
	{"DEL beside 60 000 leases", "", 0.01, ratio("leases 60000", "DEL")},
	{"ADD beside 60 000 leases against an empty pool (ours / ours)", "", 1.1,
		within("leases 60000", "ADD", report.Ours, emptyPool)},
	{"last free address of a /16, beyond the first", "ms", 2, difference("last-address", "ADD", report.Ours, emptyPool)},
	{"200 ADD, 32 at a time, plain", "", 0.40, ratio("burst plain", burstADD)},
	{"200 ADD, 32 at a time, SNAT", "", 0.10, ratio("burst snat", burstADD)},
	{"200 DEL, 32 at a time, plain", "", 0.50, ratio("burst plain", burstDEL)},
	{"200 DEL, 32 at a time, SNAT", "", 0.05, ratio("burst snat", burstDEL)},
	{"ADD beside 1000 pods with SNAT", "", 0.06, ratio("pods 1000", "ADD")},
	{"extra time of a new connection at 10 000 pods", "µs", 2, median("connections", extraTime)},
	{"CHECK", "", 0.2, ratio("check", "CHECK")},
	{"GC with 1000 live and 1000 stale attachments", "ms", 1000,
		median("gc", "GC with 1000 live and 1000 stale attachments")},
	{"overlay, 10 000 peers: Set from empty", "ms", 50, median("peers 10000", "vxlan: Set from empty")},
	{"overlay, 10 000 peers: Set with one change", "ms", 1, median("peers 10000", "vxlan: Set with one change")},
	{"overlay, 10 000 peers: Repair without a difference", "ms", 12, median("peers 10000", "vxlan: Repair without a difference")},
	{"host-gw, 10 000 peers: Set from empty", "ms", 30, median("peers 10000", "host-gw: Set from empty")},
	{"ADD through overlay against bridge alone (ours / ours)", "", 1.15, within("overlay", "ADD", overlay, bridgeAlone)},
	{"ADD through host-gw against bridge alone (ours / ours)", "", 1.15, within("overlay", "ADD", hostGW, bridgeAlone)},
	{"size of the one executable", "MB", 6, median("startup", "size of bridge")},
	{"time to VERSION", "", 0.92, ratio("startup", "VERSION")},
}

// Operations that more than one place names.
const (
	strangerDEL = "DEL of an unknown owner"
	burstADD    = "200 ADD, 32 at a time"
	burstDEL    = "200 DEL, 32 at a time"
	extraTime   = "extra time of a new connection"
)

// judge says what came of the goals.
func judge(rep *report.Report) []report.Goal {
	verdicts := make([]report.Goal, len(goals))
	for i, g := range goals {
		v, ok := g.value(rep)
		verdicts[i] = report.Goal{
			Name: g.name, Unit: g.unit, Limit: g.limit, Value: v, Measured: ok, Why: why[g.name],
			Scenario: g.scenario, Operation: g.operation,
		}
	}
	return verdicts
}

// ratio is that of our median to the reference's.
func ratio(scenario, operation string) source {
	s := within(scenario, operation, report.Ours, report.Reference)
	s.scenario, s.operation = scenario, operation
	return s
}

// within is the ratio of the medians of two arms.
func within(scenario, operation, arm, to string) source {
	return two(scenario, operation, arm, to, func(a, b float64) float64 { return a / b })
}

// difference is that of the medians of two arms.
func difference(scenario, operation, arm, to string) source {
	return two(scenario, operation, arm, to, func(a, b float64) float64 { return a - b })
}

func two(scenario, operation, arm, other string, f func(a, b float64) float64) source {
	return source{value: func(rep *report.Report) (float64, bool) {
		row := rep.Find(scenario, operation)
		a, b := row.Cell(arm), row.Cell(other)
		if a == nil || b == nil {
			return 0, false
		}
		v := f(a.Median, b.Median)
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	}}
}

// median is our own.
func median(scenario, operation string) source {
	return source{value: func(rep *report.Report) (float64, bool) {
		if c := rep.Find(scenario, operation).Cell(report.Ours); c != nil {
			return c.Median, true
		}
		return 0, false
	}}
}

// worst is the largest of our counts with and without SNAT.
func worst(operation string, count func(*report.Cell) int) source {
	return source{value: func(rep *report.Report) (float64, bool) {
		most := 0
		for _, scenario := range []string{"plain", "snat"} {
			if c := rep.Find(scenario, operation).Cell(report.Ours); c != nil {
				most = max(most, count(c))
			}
		}
		return float64(most), most > 0
	}}
}

// series are the lines of the plots: ADD and DEL against leases and pods, and peers against time.
func series(rows []report.Row) []report.Series {
	var all []report.Series
	for _, plot := range []struct{ title, pattern string }{
		{"leases", "leases %d"}, {"pods", "pods %d"}, {"peers", "peers %d"},
	} {
		index := map[string]int{}
		for _, row := range rows {
			var x int
			if n, _ := fmt.Sscanf(row.Scenario, plot.pattern, &x); n != 1 || row.Scenario != fmt.Sprintf(plot.pattern, x) {
				continue
			}
			for _, c := range row.Cells {
				if c.Arm == emptyPool {
					continue
				}
				name := row.Operation
				if len(row.Cells) > 1 {
					name += ", " + c.Arm
				}
				i, known := index[name]
				if !known {
					i = len(all)
					index[name] = i
					all = append(all, report.Series{Plot: plot.title, Name: name})
				}
				all[i].Points = append(all[i].Points, report.Point{X: float64(x), Y: c.Median})
			}
		}
	}
	return all
}
