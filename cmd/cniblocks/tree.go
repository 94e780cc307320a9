//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	width  = 100      // of the picture, in columns
	narrow = 44       // a last cell with less room than that goes below the others
	glue   = "\u00a0" // a space at which no line breaks
)

// item is a line of the picture with what hangs below it. Neighbours with several cells stand in columns; the last cell
// flows on into further lines.
type item struct {
	cells []string
	kids  []*item
}

func (i *item) add(cells ...string) *item {
	kid := &item{cells: cells}
	i.kids = append(i.kids, kid)
	return kid
}

func (i *item) addf(format string, a ...any) *item { return i.add(fmt.Sprintf(format, a...)) }

func (i *item) draw(w io.Writer) {
	fmt.Fprintln(w, strings.Join(i.cells, "  "))
	i.drawKids(w, "")
}

func (i *item) drawKids(w io.Writer, indent string) {
	for n, kid := range i.kids {
		branch, below := "├─ ", "│  "
		if n == len(i.kids)-1 {
			branch, below = "└─ ", "   "
		}
		hang := "   "
		if len(kid.kids) > 0 {
			hang = "│  "
		}
		head := ""
		for c, cell := range kid.cells[:len(kid.cells)-1] {
			head += pad(cell, i.column(n, c)) + "  "
		}
		first := indent + branch + head
		rest := indent + below + pad(hang, max(columns(head), 3))
		lines := flow(kid.cells[len(kid.cells)-1], width-columns(first), width-columns(rest))
		if head != "" && width-columns(first) < narrow {
			rest = indent + below + hang + hang
			lines = append([]string{""}, flow(kid.cells[len(kid.cells)-1], width-columns(rest), width-columns(rest))...)
		}
		for l, line := range lines {
			if l == 0 {
				line = first + line
			} else {
				line = rest + line
			}
			fmt.Fprintln(w, strings.TrimRight(strings.ReplaceAll(line, glue, " "), " "))
		}
		kid.drawKids(w, indent+below)
	}
}

// column is how wide a cell is among the neighbours of the n-th kid that have as many cells.
func (i *item) column(n, c int) int {
	most, size := 0, len(i.kids[n].cells)
	for m := n; m >= 0 && len(i.kids[m].cells) == size; m-- {
		most = max(most, columns(i.kids[m].cells[c]))
	}
	for m := n; m < len(i.kids) && len(i.kids[m].cells) == size; m++ {
		most = max(most, columns(i.kids[m].cells[c]))
	}
	return most
}

func pad(s string, to int) string { return s + strings.Repeat(" ", max(0, to-columns(s))) }

func columns(s string) int { return utf8.RuneCountInString(s) }

// flow breaks a text at spaces into lines of at most so many columns; a longer word stays whole.
func flow(text string, first, rest int) (lines []string) {
	line, room := "", first
	for word := range strings.SplitSeq(text, " ") {
		switch {
		case line == "":
			line = word
		case columns(line)+1+columns(word) <= room:
			line += " " + word
		default:
			lines = append(lines, line)
			line, room = word, rest
		}
	}
	return append(lines, line)
}
