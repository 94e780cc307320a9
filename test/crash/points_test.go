//go:build linux

package crash_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

const most = 1000 // changes; more than any verb makes

// points yields the changes to strike, each with the number of a world to try after it. With -all these are all changes
// and all worlds, until strike says that there was no such change; else some changes, spread over all of them from a random
// one on, with a world each.
func points(total, some, worlds int, strike func(k, world int) (struck bool)) (tried int) {
	if *all {
		for k := 1; k <= most; k++ {
			for w := range worlds {
				if !strike(k, w) {
					return tried
				}
				tried++
			}
		}
		return tried
	}
	step := max(1, total/some)
	for i, k := 0, 1+rand.IntN(step); k <= total; i, k = i+1, k+step {
		if strike(k, i%worlds) {
			tried++
		}
	}
	return tried
}

// row is a line of the table: what was tried for a configuration and a verb, and what survived. Survivors are always
// none: a test fails at the first.
type row struct {
	config, victim string
	changes, tried int
}

var rows []row

// report prints a line of the table, and keeps it.
func report(t *testing.T, r row) {
	t.Helper()
	if t.Failed() {
		return
	}
	rows = append(rows, r)
	t.Logf("%s: %s makes %d changes, struck %d times, 0 survivors", r.config, r.victim, r.changes, r.tried)
}

// writeTable writes the file that -table names.
func writeTable() {
	if *tableOut == "" || len(rows) == 0 {
		return
	}
	var b strings.Builder
	b.WriteString("| configuration | what was struck | changes | struck | survivors |\n|---|---|---:|---:|---:|\n")
	slices.SortStableFunc(rows, func(a, b row) int { return strings.Compare(a.config, b.config) })
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | 0 |\n", r.config, r.victim, r.changes, r.tried)
	}
	if err := os.WriteFile(*tableOut, []byte(b.String()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
