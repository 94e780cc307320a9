//go:build linux

package crash_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// emulated says that every instruction takes twenty times as long.
var emulated = os.Getenv("CNIBLOCKS_VM") != ""

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
	if emulated {
		some = min(some, 3)
	}
	step := max(1, total/some)
	for i, k := 0, 1+rand.IntN(step); k <= total; i, k = i+1, k+step {
		if strike(k, i%worlds) {
			tried++
		}
	}
	return tried
}

// row is a line of the table: what was tried for a configuration. Nothing survived any, or the test had failed.
type row struct {
	config, victim string
	changes, tried int
}

func (r row) String() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	struck := "a sample"
	if *all {
		struck = "all"
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %d | 0 | %s | %s |", r.config, r.victim, r.changes, struck, r.tried, kernel, time.Now().UTC().Format(time.DateOnly))
}

var (
	rowsLock sync.Mutex
	rows     []row
)

// report prints a line of the table, and keeps it.
func report(t *testing.T, r row) {
	t.Helper()
	if t.Failed() {
		return
	}
	rowsLock.Lock()
	defer rowsLock.Unlock()
	rows = append(rows, r)
	t.Logf("%s: %s makes %d changes, struck %d times, 0 survivors", r.config, r.victim, r.changes, r.tried)
}

const tableHead = `# What was struck, and how often

Written by ` + "`make crash` and `make crash-vm`" + `. A row says of a configuration what was struck, how many system calls that change
something (or receive an answer) it makes when nobody disturbs it, whether all of them were struck or a sample that is
spread over them, how many runs were struck, after how many of these anything was left that the calls that follow do not
mend, the kernel, and the day. Where all were struck, each call was struck once for each of the ways to go on after it, and
a change failed once with each of six errors (on the emulated kernel, 6.12, with one to three of them, in turn), but for a last
call that the run did not come to; the number of calls differs a little from run to run. What the ways are is told in
[test/crash/README.md](../test/crash/README.md).

| configuration | what was struck | calls | of these | runs struck | survivors | kernel | day |
|---|---|---:|---|---:|---:|---|---|
`

// writeTable puts the rows in the place of those of the same configuration and victim in the file that -table names.
func writeTable() {
	if *tableOut == "" || len(rows) == 0 {
		return
	}
	lines := map[string]string{}
	old, _ := os.ReadFile(*tableOut)
	_, body, _ := strings.Cut(string(old), "|---|")
	keep := func(line string) {
		if f := strings.Split(line, "|"); len(f) == 10 {
			lines[f[1]+"|"+f[2]] = line
		}
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "| ") {
			keep(strings.TrimSpace(line))
		}
	}
	for _, r := range rows {
		keep(r.String())
	}
	text := tableHead
	for _, key := range sortedKeys(lines) {
		text += lines[key] + "\n"
	}
	if err := os.WriteFile(*tableOut, []byte(text), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
