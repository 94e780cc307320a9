package report

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Markdown renders the report as a page in that directory, with links to the plots.
func (r *Report) Markdown(dir string, plots []Plot) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n\n%s\n\n", r.Title, r.Introduction)
	fmt.Fprintf(&b, "This page is the output of `%s`, %s.\n\n", r.Command, r.Date.Format(time.DateOnly))
	r.machine(&b)
	r.goals(&b)
	for _, p := range plots {
		path, err := filepath.Rel(dir, p.File)
		if err != nil {
			path = p.File
		}
		fmt.Fprintf(&b, "![%s](%s)\n\n", p.Title, filepath.ToSlash(path))
	}
	r.figures(&b)
	list(&b, "## Notes", r.Notes)
	list(&b, "## Scenarios that failed", r.Failures)
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}

func (r *Report) machine(b *bytes.Buffer) {
	m := r.Machine
	table(b, []string{"", ""}, [][]string{
		{"ours", r.Ours}, {"reference", r.Reference}, {"machine", fmt.Sprintf("%d cores, %s, load average %s at the start", m.Cores, m.CPU, Number(m.Load))},
		{"kernel", m.Kernel}, {"Go", m.Go}, {"file system of the leases", m.FileSystem},
		{"iptables, nft", orMissing(m.IPTables) + ", " + orMissing(m.NFT)},
	})
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}

// goalsADD is how long the reference's ADD took, in milliseconds, where the goals were found possible.
const goalsADD = 5.0

func (r *Report) goals(b *bytes.Buffer) {
	if len(r.Goals) == 0 {
		return
	}
	b.WriteString("## Goals\n\nRatios are ours to the reference where nothing else is said.")
	if c := r.Find("plain", "ADD").Cell(Reference); c != nil {
		fmt.Fprintf(b, " Goals in milliseconds are of a machine on which the reference's ADD takes %s ms; in this run it took %s.",
			Number(goalsADD), Number(c.Median))
	}
	b.WriteString("\n\n")
	var rows [][]string
	for _, g := range r.Goals {
		rows = append(rows, []string{g.Name, g.amount(g.Limit), g.measured(), g.verdict()})
	}
	table(b, []string{"goal", "at most", "measured", ""}, rows)
	var misses []string
	for _, g := range r.Goals {
		if g.Measured && !g.Pass() && g.Why != "" {
			misses = append(misses, fmt.Sprintf("%s: %s", g.Name, g.Why))
		}
	}
	list(b, "Why what missed its goal does:", misses)
}

func (r *Report) figures(b *bytes.Buffer) {
	b.WriteString("## Figures\n\nMedian, tenth and ninetieth percentile. \"Settled\" is when nothing was left in the background, where that is " +
		"later than the end of the operation. Ratios are of the medians, with the tenth and ninetieth percentile of those of " +
		"neighbouring rounds. \"MB\" is what was allocated in passing, where it was measured. Processes, system calls and netlink writes come from a run of its own under strace, without the naps of Go's monitor thread (nanosleep), of which strace itself makes many.\n\n")
	var rows [][]string
	for _, row := range r.Rows {
		for i, c := range row.Cells {
			cells := []string{
				"", "", c.Arm, fmt.Sprint(c.N), Number(c.Median) + " " + row.Unit, Number(c.P10), Number(c.P90), c.Ratio.String(),
				c.cpu(), number(c.settled()), number(c.Allocated), count(c.Processes), count(c.Syscalls), count(c.NetlinkWrites),
			}
			if i == 0 {
				cells[0], cells[1] = row.Scenario, row.Operation
			}
			rows = append(rows, cells)
		}
	}
	table(b, []string{
		"scenario", "operation", "", "n", "median", "p10", "p90", "ratio", "CPU (ratio)", "settled", "MB", "processes", "system calls", "netlink writes",
	}, rows)
}

func table(b *bytes.Buffer, head []string, rows [][]string) {
	line := func(cells []string) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	line(head)
	fmt.Fprintf(b, "|%s\n", strings.Repeat("---|", len(head)))
	for _, row := range rows {
		line(row)
	}
	b.WriteByte('\n')
}

func list(b *bytes.Buffer, head string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "%s\n\n", head)
	for _, item := range items {
		fmt.Fprintf(b, "- %s\n", strings.ReplaceAll(item, "\n", " "))
	}
	b.WriteByte('\n')
}
