// Package report holds what a benchmark found, and renders it: as a table for a terminal, as JSON, as a page in Markdown,
// and as plots in SVG.
package report

import (
	"cmp"
	"math"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/stats"
)

// Names of the two sides that every scenario compares; a scenario may have further arms.
const (
	Ours      = "ours"
	Reference = "reference"
)

// Report is the outcome of one run.
type Report struct {
	Title string `json:"title"`
	// Introduction opens the page.
	Introduction string    `json:"-"`
	Command      string    `json:"command"`
	Date         time.Time `json:"date"`
	Machine      Machine   `json:"machine"`
	Ours         string    `json:"ours"` // what was measured
	Reference    string    `json:"reference"`
	Rows         []Row     `json:"rows"`
	Series       []Series  `json:"series,omitempty"`
	Goals        []Goal    `json:"goals,omitempty"`
	Notes        []string  `json:"notes,omitempty"`
	Failures     []string  `json:"failures,omitempty"` // scenarios that did not come to an end
}

// Row is one operation of one scenario, with a cell for each arm.
type Row struct {
	Scenario  string `json:"scenario"`
	Operation string `json:"operation"`
	Unit      string `json:"unit"`
	Cells     []Cell `json:"cells"`
}

// Cell is what one arm took.
type Cell struct {
	Arm    string  `json:"arm"`
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P10    float64 `json:"p10"`
	P90    float64 `json:"p90"`
	// CPU and Settled are medians in the row's unit, 0 where not measured. Settled is the time until nothing was left in
	// the background.
	CPU     float64 `json:"cpu,omitempty"`
	Settled float64 `json:"settled,omitempty"`
	// Allocated is the median of the memory that an operation asked for in passing, in MB (10^6 bytes), 0 where not measured.
	Allocated float64 `json:"allocated,omitempty"`
	// Counts of a traced run, 0 where there was none.
	Processes     int `json:"processes,omitempty"`
	Syscalls      int `json:"syscalls,omitempty"`
	NetlinkWrites int `json:"netlink_writes,omitempty"`
	// Ratio to the arm that others are compared to; nil for that arm, and where there is none.
	Ratio *Ratio `json:"ratio,omitempty"`
	// CPURatio is that of the CPU times, which other programs disturb less; 0 where there is none.
	CPURatio float64 `json:"cpu_ratio,omitempty"`
}

// Ratio is that of two medians, with the tenth and ninetieth percentile of the ratios of neighbouring rounds (0 where
// there were too few).
type Ratio struct {
	Value float64 `json:"value"`
	P10   float64 `json:"p10,omitempty"`
	P90   float64 `json:"p90,omitempty"`
}

// Series is a line of a plot.
type Series struct {
	Plot   string  `json:"plot"`
	Name   string  `json:"name"`
	Points []Point `json:"points"`
}

// Point is a place in a plot.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Goal is a goal and what came of it.
type Goal struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"` // empty for a ratio or a number
	Limit    float64 `json:"limit"`
	Value    float64 `json:"value"`
	Measured bool    `json:"measured"`
	Why      string  `json:"why,omitempty"` // it misses its limit, where it does
	// Scenario and Operation are those of the row whose ratio of ours to the reference the goal is about, else empty.
	Scenario  string `json:"scenario,omitempty"`
	Operation string `json:"operation,omitempty"`
}

// Pass reports whether the goal was measured and met.
func (g Goal) Pass() bool { return g.Measured && g.Value <= g.Limit }

// Excess is by what share of the limit the value is above it: 0.5 for half more than allowed.
func (g Goal) Excess() float64 { return g.Value/g.Limit - 1 }

// Find returns the row of that scenario and operation, or nil.
func (r *Report) Find(scenario, operation string) *Row {
	for i := range r.Rows {
		if r.Rows[i].Scenario == scenario && r.Rows[i].Operation == operation {
			return &r.Rows[i]
		}
	}
	return nil
}

// Cell returns the cell of that arm, or nil. It may be called on nil.
func (r *Row) Cell(arm string) *Cell {
	if r == nil {
		return nil
	}
	for i := range r.Cells {
		if r.Cells[i].Arm == arm {
			return &r.Cells[i]
		}
	}
	return nil
}

// Measure is one measurement of an operation.
type Measure struct {
	Value        float64 // in the unit of the row
	CPU, Settled float64 // likewise, 0 where not measured
	Allocated    float64 // in MB (10^6 bytes), 0 where not measured
}

// Counts are those of a traced run.
type Counts struct{ Processes, Syscalls, NetlinkWrites int }

// Recorder collects measurements and condenses them to rows. The zero value is empty.
type Recorder struct {
	// Base is the arm that others are compared to, by default [Reference].
	Base string

	rows []*samples
}

type samples struct {
	scenario, operation, unit string
	arms                      []*armSamples
}

type armSamples struct {
	name                string
	value, cpu, settled stats.Sample
	allocated           stats.Sample
	counts              Counts
}

// Add records one measurement.
func (r *Recorder) Add(scenario, operation, arm, unit string, m Measure) {
	a := r.arm(scenario, operation, arm, unit)
	a.value = append(a.value, m.Value)
	if m.CPU != 0 {
		a.cpu = append(a.cpu, m.CPU)
	}
	if m.Settled != 0 {
		a.settled = append(a.settled, m.Settled)
	}
	if m.Allocated != 0 {
		a.allocated = append(a.allocated, m.Allocated)
	}
}

// Count records what a traced run counted. It belongs to measurements: without them it is in no row.
func (r *Recorder) Count(scenario, operation, arm string, c Counts) {
	r.arm(scenario, operation, arm, "").counts = c
}

func (r *Recorder) arm(scenario, operation, arm, unit string) *armSamples {
	var row *samples
	for _, s := range r.rows {
		if s.scenario == scenario && s.operation == operation {
			row = s
		}
	}
	if row == nil {
		row = &samples{scenario: scenario, operation: operation}
		r.rows = append(r.rows, row)
	}
	row.unit = cmp.Or(row.unit, unit)
	if a := row.find(arm); a != nil {
		return a
	}
	a := &armSamples{name: arm}
	row.arms = append(row.arms, a)
	return a
}

// Rows condenses what was recorded, in the order in which rows and arms were first seen.
func (r *Recorder) Rows() []Row {
	base := cmp.Or(r.Base, Reference)
	var rows []Row
	for _, s := range r.rows {
		row := Row{Scenario: s.scenario, Operation: s.operation, Unit: s.unit}
		for _, a := range s.arms {
			if len(a.value) == 0 {
				continue
			}
			cell := a.cell()
			if b := s.find(base); b != nil && a != b {
				cell.Ratio = ratio(stats.Compare(a.value, b.value, 2))
				cell.CPURatio = orZero(a.cpu.Median() / b.cpu.Median())
			}
			row.Cells = append(row.Cells, cell)
		}
		if len(row.Cells) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

func (s *samples) find(arm string) *armSamples {
	for _, a := range s.arms {
		if a.name == arm {
			return a
		}
	}
	return nil
}

func (a *armSamples) cell() Cell {
	return Cell{
		Arm: a.name, N: len(a.value), Median: a.value.Median(), P10: a.value.Quantile(0.1), P90: a.value.Quantile(0.9),
		CPU: orZero(a.cpu.Median()), Settled: orZero(a.settled.Median()), Allocated: orZero(a.allocated.Median()),
		Processes: a.counts.Processes, Syscalls: a.counts.Syscalls, NetlinkWrites: a.counts.NetlinkWrites,
	}
}

func ratio(r stats.Ratio) *Ratio {
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return nil
	}
	return &Ratio{Value: r.Value, P10: orZero(r.P10), P90: orZero(r.P90)}
}

// orZero replaces what JSON cannot carry.
func orZero(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}
