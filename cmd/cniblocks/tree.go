//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	page   = 100      // columns where the picture goes to no terminal
	least  = 40       // columns; a narrower terminal breaks the lines itself
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

// columnsOf is how wide what is written may be: what COLUMNS in the environment says, or the terminal has.
func columnsOf(w io.Writer, env func(string) string) int {
	if n, err := strconv.Atoi(env("COLUMNS")); err == nil && n > 0 {
		return max(n, least)
	}
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return max(int(size.Col), least)
		}
	}
	return page
}

// draw writes the picture in lines of at most so many columns; a word that is longer stays whole.
func (i *item) draw(w io.Writer, width int) {
	fmt.Fprintln(w, strings.Join(i.cells, "  "))
	i.drawKids(w, "", width)
}

func (i *item) drawKids(w io.Writer, indent string, width int) {
	wide := i.columns()
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
			head += pad(cell, wide[n][c]) + "  "
		}
		first := indent + branch + head
		rest := indent + below + pad(hang, max(columns(head), 3))
		lines := flow(kid.cells[len(kid.cells)-1], width-columns(first), width-columns(rest))
		if head != "" && width-columns(first) < min(narrow, width/2) {
			rest = indent + below + hang + hang
			first = strings.TrimRight(first, " ")
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
		kid.drawKids(w, indent+below, width)
	}
}

// columns is how wide the cells of each kid are: as the widest among neighbours that have as many.
func (i *item) columns() [][]int {
	wide := make([][]int, len(i.kids))
	for from := 0; from < len(i.kids); {
		most, to := make([]int, len(i.kids[from].cells)), from
		for ; to < len(i.kids) && len(i.kids[to].cells) == len(most); to++ {
			for c, cell := range i.kids[to].cells {
				most[c] = max(most[c], columns(cell))
			}
			wide[to] = most
		}
		from = to
	}
	return wide
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
