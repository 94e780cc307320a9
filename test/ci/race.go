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
	cmd := exec.CommandContext(ctx, "go", "list", "-f", format, "work")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list: %w", err)
	}
	var concurrent []string
	tested := map[string][]string{} // what the tests of a package import
	for line := range strings.Lines(string(out)) {
		p := strings.Split(strings.TrimSpace(line), "|")
		tested[p[0]] = strings.Fields(p[3])
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
	for _, p := range packages {
		if slices.Contains(concurrent, p) || slices.ContainsFunc(tested[p], func(i string) bool {
			return slices.Contains(concurrent, i) && !everywhere.MatchString(i)
		}) {
			with = append(with, p)
		} else {
			without = append(without, p)
		}
	}
	return with, without, nil
}
