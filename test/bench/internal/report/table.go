package report

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table renders the report for a terminal.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: %s against %s\n%s, %d cores (%s), %s\n\n", r.Title, r.Ours, r.Reference,
		r.Machine.Kernel, r.Machine.Cores, r.Machine.CPU, r.Machine.Go)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "scenario\toperation\tarm\tn\tmedian\tp10\tp90\tratio\tCPU (ratio)\tsettled\tMB\tprocesses\tcalls\tnetlink\t")
	for _, row := range r.Rows {
		for i, c := range row.Cells {
			first := []string{"", ""}
			if i == 0 {
				first = []string{row.Scenario, row.Operation}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n",
				first[0], first[1], c.Arm, c.N, Number(c.Median), row.Unit, Number(c.P10), Number(c.P90), c.Ratio,
				c.cpu(), number(c.settled()), number(c.Allocated), count(c.Processes), count(c.Syscalls), count(c.NetlinkWrites))
		}
	}
	w.Flush()
	if len(r.Goals) > 0 {
		b.WriteByte('\n')
		fmt.Fprintln(w, "goal\tat most\tmeasured\t\t")
		for _, g := range r.Goals {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", g.Name, g.amount(g.Limit), g.measured(), g.verdict())
		}
		w.Flush()
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "\nnote: %s", n)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "\nFAILED: %s", f)
	}
	b.WriteByte('\n')
	return b.String()
}

// String is the ratio with its spread, empty for nil.
func (r *Ratio) String() string {
	switch {
	case r == nil:
		return ""
	case r.P90 == 0:
		return Number(r.Value)
	}
	return fmt.Sprintf("%s (%s to %s)", Number(r.Value), Number(r.P10), Number(r.P90))
}

// cpu is the CPU time with its ratio.
func (c Cell) cpu() string {
	if c.CPURatio == 0 {
		return number(c.CPU)
	}
	return Number(c.CPU) + " (" + Number(c.CPURatio) + ")"
}

// settled is 0 if nothing was left when the operation ended.
func (c Cell) settled() float64 {
	if c.Settled <= c.Median*1.001 {
		return 0
	}
	return c.Settled
}

func (g Goal) amount(v float64) string { return strings.TrimSpace(Number(v) + " " + g.Unit) }

func (g Goal) measured() string {
	if !g.Measured {
		return "not measured"
	}
	return g.amount(g.Value)
}

func (g Goal) verdict() string {
	switch {
	case !g.Measured:
		return ""
	case g.Pass():
		return "pass"
	}
	return fmt.Sprintf("miss, %.0f %% above", 100*g.Excess())
}

// Number prints a value with three significant digits.
func Number(v float64) string {
	abs := max(v, -v)
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%d", int64(v))
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	case abs >= 1:
		return fmt.Sprintf("%.2f", v)
	case abs >= 0.1:
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

// number is empty for what was not measured.
func number(v float64) string {
	if v == 0 {
		return ""
	}
	return Number(v)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
