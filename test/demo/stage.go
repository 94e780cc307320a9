//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// stage is where a play is performed: it prints what happens.
type stage struct {
	out   io.Writer
	bin   string // the programs
	dir   string // for files, removed at the end
	start time.Time
	steps int
}

// errStopped ends a play whose failure was printed.
var errStopped = errors.New("a step failed")

// act begins a part of the play.
func (s *stage) act(title string) { fmt.Fprintf(s.out, "\n%s\n", title) }

// step does something and says what came of it, and how long it took.
func (s *stage) step(what string, do func() (outcome string, err error)) error {
	const column = 84
	s.steps++
	began := time.Now()
	outcome, err := do()
	took := time.Since(began)
	if err != nil {
		fmt.Fprintf(s.out, "  ✗ %s\n", what)
		for line := range strings.Lines(strings.TrimSpace(err.Error())) {
			fmt.Fprintf(s.out, "    %s\n", strings.TrimRight(line, "\n"))
		}
		return errStopped
	}
	if outcome != "" {
		what += ": " + outcome
	}
	gap := max(1, column-utf8.RuneCountInString(what))
	fmt.Fprintf(s.out, "  ✓ %s%s%7.1f ms\n", what, strings.Repeat(" ", gap), float64(took.Microseconds())/1000)
	return nil
}

// quote prints a text within the story.
func (s *stage) quote(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.out, "    %s\n", strings.TrimRight(line, "\n"))
	}
}

// cniblocks runs the program for people, in the namespace of this process, and returns what it prints.
func (s *stage) cniblocks(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "cniblocks"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("cniblocks %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// first is the first error.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
