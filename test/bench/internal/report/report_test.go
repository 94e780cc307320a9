package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sample() *Report {
	var rec Recorder
	for i := range 4 {
		rec.Add("plain", "ADD", Ours, "ms", Measure{Value: 1 + float64(i)/10, CPU: 0.9})
		rec.Add("plain", "ADD", Reference, "ms", Measure{Value: 5 + float64(i)/2, CPU: 4})
		rec.Add("plain", "DEL", Ours, "ms", Measure{Value: 2, Settled: 20})
		rec.Add("plain", "DEL", Reference, "ms", Measure{Value: 20, Settled: 20})
	}
	rec.Count("plain", "ADD", Ours, Counts{Processes: 1, Syscalls: 283, NetlinkWrites: 4})
	rec.Count("check", "CHECK", Ours, Counts{Processes: 1})
	return &Report{
		Title: "Benchmarks", Command: "go run ./test/bench", Date: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Machine: Machine{Cores: 2, Kernel: "Linux 6.18", Go: "go1.26"}, Ours: "these", Reference: "those", Rows: rec.Rows(),
		Series: []Series{
			{Plot: "leases", Name: "ADD, ours", Points: []Point{{0, 1}, {60_000, 1.1}}},
			{Plot: "leases", Name: "ADD, reference", Points: []Point{{0, 5}, {60_000, 400}}},
		},
		Goals: []Goal{
			{Name: "ADD, plain", Limit: 0.2, Value: 0.2, Measured: true, Scenario: "plain", Operation: "ADD"},
			{Name: "DEL, plain", Limit: 0.05, Value: 0.1, Measured: true, Scenario: "plain", Operation: "DEL", Why: "it waits"},
			{Name: "GC", Unit: "ms", Limit: 1000},
		},
	}
}

func TestRowsHaveMediansCountsAndRatiosToTheReference(t *testing.T) {
	t.Parallel()
	rows := sample().Rows
	require.Len(t, rows, 2, "what was only counted is no row")
	add := rows[0].Cell(Ours)
	require.InDelta(t, 1.15, add.Median, 1e-9)
	require.Equal(t, 4, add.N)
	require.Equal(t, 283, add.Syscalls)
	require.InDelta(t, 0.2, add.Ratio.Value, 1e-9)
	require.InDelta(t, 0.225, add.CPURatio, 1e-9)
	require.Nil(t, rows[0].Cell(Reference).Ratio)
	require.Equal(t, 20.0, rows[1].Cell(Ours).Settled)
	require.Nil(t, rows[0].Cell("nobody"))
}

func TestReportWithoutARatioIsStillJSON(t *testing.T) {
	t.Parallel()
	var rec Recorder
	rec.Add("a", "b", Ours, "ms", Measure{Value: 1})
	rec.Add("a", "b", Reference, "ms", Measure{Value: 0})
	rows := rec.Rows()
	require.Nil(t, rows[0].Cells[0].Ratio, "1 / 0")
	_, err := json.Marshal(Report{Rows: rows})
	require.NoError(t, err)
}

func TestGoalIsMetAtItsLimitAndNotWithoutAMeasurement(t *testing.T) {
	t.Parallel()
	goals := sample().Goals
	require.True(t, goals[0].Pass())
	require.False(t, goals[1].Pass())
	require.InDelta(t, 1, goals[1].Excess(), 1e-9)
	require.False(t, goals[2].Pass())
}

func TestTableSaysWhatMissedAndByHowMuch(t *testing.T) {
	t.Parallel()
	out := sample().Table()
	require.Regexp(t, `plain +ADD +ours +4 +1.15 ms .*0.200 .* 283 +4`, out)
	require.Regexp(t, `DEL, plain +0.0500 +0.100 +miss, 100 % above`, out)
	require.Regexp(t, `GC +1000 ms +not measured`, out)
	require.NotContains(t, out, "NaN")
}

func TestPageHoldsCommandMachineGoalsAndReasons(t *testing.T) {
	t.Parallel()
	r := sample()
	page := string(r.Markdown("docs", r.Plots("docs/benchmarks.svg")))
	for _, want := range []string{
		"`go run ./test/bench`, 2026-11-01", "| machine | 2 cores", "| ADD, plain | 0.200 | 0.200 | pass |",
		"| DEL, plain | 0.0500 | 0.100 | miss, 100 % above |", "- DEL, plain: it waits", "](benchmarks.svg)",
		"takes 5 ms; in this run it took 5.75.",
		"](benchmarks-leases.svg)", "| plain | DEL | ours | 4 | 2 ms | 2 | 2 | 0.100 (0.100 to 0.100) |  | 20 |",
	} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "NaN")
}

func TestPlotsAreWellFormedAndWithinTheDrawing(t *testing.T) {
	t.Parallel()
	plots := sample().Plots("b.svg")
	require.Len(t, plots, 2)
	for _, p := range plots {
		d := xml.NewDecoder(strings.NewReader(string(p.SVG)))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, p.File)
			if e, ok := token.(xml.StartElement); ok {
				for _, a := range e.Attr {
					require.NotContains(t, a.Value, "NaN", p.File)
					require.NotContains(t, a.Value, "Inf", p.File)
				}
			}
		}
	}
	require.Contains(t, string(plots[0].SVG), colorRef, "DEL missed its goal")
}

func TestLogScaleCoversItsValues(t *testing.T) {
	t.Parallel()
	s := newLogScale([]float64{0.02, 1, 30}, 0, 400)
	require.Equal(t, []float64{0.01, 0.1, 1, 10, 100}, s.ticks())
	require.InDelta(t, 0, s.at(0.01), 1e-9)
	require.InDelta(t, 400, s.at(100), 1e-9)
	require.InDelta(t, 200, s.at(1), 1e-9)
	one := newLogScale([]float64{1}, 0, 10)
	require.False(t, math.IsNaN(one.at(1)))
}

func TestNumbersKeepThreeDigits(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]float64{
		"0": 0, "3": 3, "1234": 1234.4, "12.3": 12.34, "1.23": 1.234, "0.123": 0.1234, "0.0123": 0.01234, "-1.50": -1.5,
	} {
		require.Equal(t, want, Number(v))
	}
}
