package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Colours and sizes of all plots: dark on white, two hues that colour-blind readers tell apart.
const (
	ink, faint, paper   = "#222222", "#dddddd", "#ffffff"
	colorOurs, colorRef = "#0b62a4", "#d96a0b"
	fontSize            = 13
	plotWidth           = 860
)

// Plot is a drawing and the file that it belongs to.
type Plot struct {
	File, Title string
	SVG         []byte
}

// Plots draws what there is to draw. The ratios go to that file; other plots get their name before its suffix.
func (r *Report) Plots(file string) []Plot {
	var plots []Plot
	base := strings.TrimSuffix(file, ".svg")
	if bars := r.bars(); len(bars) > 0 {
		title := "Time of ours against the reference: ratio of medians (less is better)"
		plots = append(plots, Plot{base + ".svg", title, drawBars(title, bars)})
	}
	for _, p := range []struct{ name, title, x string }{
		{"pods", "ADD and DEL with SNAT against the number of pods", "pods on the bridge"},
		{"leases", "ADD and DEL against the number of leases", "leases in the pool"},
		{"peers", "Overlay: time against the number of peers", "peers"},
	} {
		var lines []Series
		for _, s := range r.Series {
			if s.Plot == p.name && len(s.Points) > 1 {
				lines = append(lines, s)
			}
		}
		if len(lines) > 0 {
			plots = append(plots, Plot{base + "-" + p.name + ".svg", p.title, drawLines(p.title, p.x, "ms", lines)})
		}
	}
	return plots
}

// canvas builds an SVG drawing.
type canvas struct {
	b             strings.Builder
	width, height float64
}

func newCanvas(width, height float64, title string) *canvas {
	c := &canvas{width: width, height: height}
	fmt.Fprintf(&c.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" `+
		`font-family="sans-serif" font-size="%d" role="img">`+"\n", width, height, width, height, fontSize)
	fmt.Fprintf(&c.b, "<title>%s</title>\n", html.EscapeString(title))
	c.rect(0, 0, width, height, paper)
	c.text(16, 26, "start", ink, title)
	return c
}

func (c *canvas) bytes() []byte { return []byte(c.b.String() + "</svg>\n") }

func (c *canvas) rect(x, y, w, h float64, fill string) {
	fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, fill)
}

func (c *canvas) line(x1, y1, x2, y2 float64, stroke string, width float64) {
	fmt.Fprintf(&c.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"/>`+"\n",
		x1, y1, x2, y2, stroke, width)
}

// text has its anchor (start, middle, end) at x and its base line at y.
func (c *canvas) text(x, y float64, anchor, fill, s string) {
	fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(s))
}

// path joins points by a line, with a dot on each.
func (c *canvas) path(points []Point, stroke, dash string) {
	var list strings.Builder
	for _, p := range points {
		fmt.Fprintf(&list, "%.1f,%.1f ", p.X, p.Y)
		fmt.Fprintf(&c.b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", p.X, p.Y, stroke)
	}
	fmt.Fprintf(&c.b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`+"\n",
		strings.TrimSpace(list.String()), stroke, dash)
}

// logScale maps values between two powers of ten to a range of the drawing.
type logScale struct {
	low, high int // exponents
	from, to  float64
}

// newLogScale covers the values, which must be positive.
func newLogScale(values []float64, from, to float64) logScale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		low, high = min(low, math.Log10(v)), max(high, math.Log10(v))
	}
	s := logScale{low: int(math.Floor(low)), high: int(math.Ceil(high)), from: from, to: to}
	if s.low == s.high {
		s.high++
	}
	return s
}

func (s logScale) at(v float64) float64 {
	share := (math.Log10(v) - float64(s.low)) / float64(s.high-s.low)
	return s.from + share*(s.to-s.from)
}

// ticks are the powers of ten of the scale.
func (s logScale) ticks() []float64 {
	var t []float64
	for e := s.low; e <= s.high; e++ {
		t = append(t, math.Pow10(e))
	}
	return t
}
