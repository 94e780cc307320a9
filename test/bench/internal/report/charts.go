package report

import (
	"fmt"
	"strings"
)

// bar is a ratio with its goal, 0 where there is none.
type bar struct {
	label       string
	ratio, goal float64
}

// bars are the ratios of ours to the reference.
func (r *Report) bars() []bar {
	limit := map[[2]string]float64{}
	for _, g := range r.Goals {
		if g.Scenario != "" {
			limit[[2]string{g.Scenario, g.Operation}] = g.Limit
		}
	}
	var bars []bar
	for _, row := range r.Rows {
		ours, ref := row.Cell(Ours), row.Cell(Reference)
		if ours == nil || ref == nil || row.Unit != "ms" || ours.N < 2 || ours.Median <= 0 || ref.Median <= 0 {
			continue
		}
		bars = append(bars, bar{
			label: row.Scenario + ": " + row.Operation, ratio: ours.Median / ref.Median,
			goal: limit[[2]string{row.Scenario, row.Operation}],
		})
	}
	return bars
}

// drawBars draws a bar for each ratio, on a logarithmic scale, with a tick at its goal and a line at 1.
func drawBars(title string, bars []bar) []byte {
	const left, right, top, step = 340, 80, 66, 24
	height := float64(top + step*len(bars) + 16)
	c := newCanvas(plotWidth, height, title)
	values := []float64{1}
	for _, b := range bars {
		values = append(values, b.ratio)
	}
	x := newLogScale(values, left, plotWidth-right)
	for _, t := range x.ticks() {
		c.line(x.at(t), top-8, x.at(t), height-12, faint, 1)
		c.text(x.at(t), top-14, "middle", ink, fmt.Sprint(t))
	}
	for i, b := range bars {
		y := float64(top + step*i)
		color := colorOurs
		if b.goal > 0 && b.ratio > b.goal {
			color = colorRef
		}
		c.text(left-8, y+13, "end", ink, b.label)
		start := x.at(x.ticks()[0])
		c.rect(start, y+2, max(x.at(b.ratio)-start, 1), step-9, color)
		c.text(plotWidth-16, y+13, "end", ink, Number(b.ratio))
		if b.goal > 0 {
			at := max(x.at(b.goal), start)
			c.line(at, y-1, at, y+step-4, ink, 2)
		}
	}
	c.line(x.at(1), top-8, x.at(1), height-12, ink, 1)
	c.text(plotWidth-16, 26, "end", ink, "black tick: goal; orange: goal missed")
	return c.bytes()
}

// drawLines draws series over a linear x and a logarithmic y. Series of the reference have its colour, operations other
// than the first are dashed.
func drawLines(title, xLabel, yUnit string, lines []Series) []byte {
	const left, right, top, bottom, height = 90, 330, 50, 50, 380
	c := newCanvas(plotWidth, height, title)
	var values []float64
	most := 1.0
	for _, s := range lines {
		for _, p := range s.Points {
			values = append(values, p.Y)
			most = max(most, p.X)
		}
	}
	y := newLogScale(values, height-bottom, top)
	x := func(v float64) float64 { return left + v/most*(plotWidth-left-right) }
	for _, t := range y.ticks() {
		c.line(left, y.at(t), plotWidth-right, y.at(t), faint, 1)
		c.text(left-8, y.at(t)+4, "end", ink, fmt.Sprint(t)+" "+yUnit)
	}
	labelled := map[float64]bool{}
	lastLabel := -100.0
	for _, p := range lines[0].Points {
		if !labelled[p.X] && x(p.X)-lastLabel > 30 {
			labelled[p.X], lastLabel = true, x(p.X)
			c.text(x(p.X), height-bottom+18, "middle", ink, fmt.Sprint(int(p.X)))
		}
	}
	c.text((left+plotWidth-right)/2, height-10, "middle", ink, xLabel)
	palette := newPalette()
	for i, s := range lines {
		points := make([]Point, len(s.Points))
		for k, p := range s.Points {
			points[k] = Point{x(p.X), y.at(p.Y)}
		}
		color, dash := palette.style(s.Name)
		c.path(points, color, dash)
		at := float64(top + 10 + 20*i)
		c.path([]Point{{plotWidth - right + 16, at - 4}, {plotWidth - right + 46, at - 4}}, color, dash)
		c.text(plotWidth-right+54, at, "start", ink, s.Name)
	}
	return c.bytes()
}

// palette gives each arm a colour and each operation a dash.
type palette struct {
	colors, dashes map[string]string
}

func newPalette() palette { return palette{map[string]string{}, map[string]string{}} }

// style is that of a series, which is named "operation, arm" or "arm: operation".
func (p palette) style(series string) (color, dash string) {
	operation, arm, _ := strings.Cut(series, ", ")
	if before, after, ok := strings.Cut(series, ": "); ok {
		arm, operation = before, after
	}
	if p.colors[arm] == "" {
		next := []string{colorOurs, "#3a8f3a", "#7a4fa3"}
		p.colors[arm] = next[len(p.colors)%len(next)]
		if arm == Reference {
			p.colors[arm] = colorRef
		}
	}
	if p.dashes[operation] == "" {
		next := []string{"none", "6 4", "2 3", "10 3 2 3"}
		p.dashes[operation] = next[len(p.dashes)%len(next)]
	}
	return p.colors[arm], p.dashes[operation]
}
