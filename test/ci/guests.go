package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
)

// guests run in the virtual machine what the running kernel lacks something for, beside the other lanes: the tests of a
// package as soon as it is known which of them were skipped.
type guests struct {
	suite   *suite
	ctx     context.Context
	program func() (path string, err error)
	slots   chan struct{}
	running sync.WaitGroup

	mu    sync.Mutex
	lanes []*lane
	err   error // of the last boot that failed as a whole
}

// newGuests has two machines at most at a time. Nothing is built or started before there is a test to run.
func (s *suite) newGuests(ctx context.Context) *guests {
	program := sync.OnceValues(func() (string, error) { return s.vmProgram(ctx) })
	return &guests{suite: s, ctx: ctx, program: program, slots: make(chan struct{}, 2)}
}

// take runs the tests that wait for the virtual machine, of a package that has ended in another lane, in one boot. It does
// not wait for them.
func (g *guests) take(l *lane, pkg string) {
	tests := wantVM(l, pkg)
	if tests == "" {
		return
	}
	g.running.Go(func() {
		g.slots <- struct{}{}
		defer func() { <-g.slots }()
		done, err := g.boot(pkg, tests)
		g.mu.Lock()
		defer g.mu.Unlock()
		if err != nil {
			g.err = err
		} else {
			g.lanes = append(g.lanes, done)
		}
	})
}

// boot runs tests that are static, and without the race detector: emulation is slow enough. One waits while another works.
func (g *guests) boot(pkg, tests string) (*lane, error) {
	program, err := g.program()
	if err != nil {
		return nil, err
	}
	return g.suite.lane(g.ctx, "vm-"+path.Base(path.Dir(pkg))+"-"+path.Base(pkg), []string{"CGO_ENABLED=0"},
		[]string{"-parallel=2", "-exec=" + program, "-run=" + tests, pkg}, func(*lane, string) {})
}

// wait returns what all boots did.
func (g *guests) wait() ([]*lane, error) {
	g.running.Wait()
	return g.lanes, g.err
}

// vmProgram builds the program that starts the virtual machine, and tries it.
func (s *suite) vmProgram(ctx context.Context) (string, error) {
	if s.noVM {
		return "", errors.New("left out by -no-vm")
	}
	bin, err := filepath.Abs(s.vm)
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./test/vm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./test/vm: %w\n%s", err, out)
	}
	check := exec.CommandContext(ctx, bin, "-check")
	check.Stdout, check.Stderr = os.Stdout, os.Stdout
	if err := check.Run(); err != nil {
		return "", fmt.Errorf("%s -check: %w", s.vm, err)
	}
	return bin, nil
}
