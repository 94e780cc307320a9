package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// starts is a line of Go that starts a goroutine.
var starts = regexp.MustCompile(`(?m)^\s*go [a-z(]|\.Go\(func`)

// everywhere are the ends of the import paths of packages that nearly all tests import. That these start goroutines is theirs
// to test.
var everywhere = regexp.MustCompile(`/netns$|/internal/test/`)

// raced parts the packages that are to be tested with the race detector from those without goroutines, whose tests take
// several times as long with it and find nothing: it is for packages that start some, and for those whose tests import one of them.
func (s *suite) raced(ctx context.Context, packages []string) (with, without []string, err error) {
	if !s.race || len(packages) == 0 {
		return nil, packages, nil
	}
	const format = `{{.ImportPath}}|{{.Dir}}|{{range .GoFiles}} {{.}}{{end}}|{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}`
	list := func(packages ...string) ([][]string, error) {
		cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", format}, packages...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		var lines [][]string
		for line := range strings.Lines(string(out)) {
			lines = append(lines, strings.Split(strings.TrimSpace(line), "|"))
		}
		return lines, nil
	}
	all, err := list("work")
	if err != nil {
		return nil, nil, err
	}
	var concurrent []string
	for _, p := range all {
		for _, name := range strings.Fields(p[2]) {
			b, err := os.ReadFile(filepath.Join(p[1], name))
			if err != nil {
				return nil, nil, err
			}
			if starts.Match(b) && !slices.Contains(concurrent, p[0]) {
				concurrent = append(concurrent, p[0])
			}
		}
	}
	of, err := list(packages...)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range of {
		if slices.Contains(concurrent, p[0]) || slices.ContainsFunc(strings.Fields(p[3]), func(i string) bool {
			return slices.Contains(concurrent, i) && !everywhere.MatchString(i)
		}) {
			with = append(with, p[0])
		} else {
			without = append(without, p[0])
		}
	}
	return with, without, nil
}
