// Command ci runs the tests in all lanes and says what became of each: on the running kernel, in network namespaces
// where root is to be had, and in a virtual machine those tests that the running kernel lacks something for. Then it merges: a test that one lane skipped and another ran is a test that ran.
//
// Every test that no lane ran must stand in test/allowed-skips.txt. A pinned namespace that is left over fails the run.
// With CI=true a lane that cannot run fails it as well; elsewhere that is one loud line. The events of the lanes stay in
// out/test/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
)

const (
	pins   = "/run/netns"
	prefix = "cnibtest-" // of the namespaces that tests pin, as package nstest has it
)

type suite struct {
	ci       bool
	race     bool
	vm       string
	noVM     bool
	allowed  string
	out      string
	packages []string
}

func main() {
	s := suite{ci: os.Getenv("CI") == "true"}
	flag.BoolVar(&s.race, "race", true, "use the race detector on the running kernel where there are goroutines; needs a C compiler")
	flag.BoolVar(&s.noVM, "no-vm", false, "leave out the virtual machine")
	flag.StringVar(&s.vm, "vm", "out/vm", "the program of test/vm")
	flag.StringVar(&s.allowed, "allowed", "test/allowed-skips.txt", "the list of allowed skips")
	flag.StringVar(&s.out, "out", "out/test", "where the events go")
	flag.Parse()
	s.packages = flag.Args()
	if len(s.packages) == 0 {
		s.packages = []string{"work"} // all modules of go.work
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rep, err := s.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ci:", err)
		os.Exit(1)
	}
	rep.print(os.Stdout)
	if len(rep.failures) > 0 {
		os.Exit(1)
	}
}

func (s *suite) run(ctx context.Context) (report, error) {
	f, err := os.Open(s.allowed)
	if err != nil {
		return report{}, err
	}
	defer f.Close()
	allowed, err := parseAllowances(f)
	if err != nil {
		return report{}, fmt.Errorf("%s: %w", s.allowed, err)
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return report{}, err
	}
	before := pinned()

	// Built once, and not by every package and in the virtual machine.
	defer binaries.Remove()
	if err := binaries.Export(); err != nil {
		return report{}, err
	}
	others, kube, err := s.split(ctx)
	if err != nil {
		return report{}, err
	}
	with, without, err := s.raced(ctx, others)
	if err != nil {
		return report{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	vms := s.newGuests(ctx)
	defer func() {
		cancel()
		_, _ = vms.wait()
	}()
	var lanes []*lane
	var missing, problems []string
	// The first of these has most of what the virtual machine is to run. The second builds what it needs as well.
	for _, part := range []struct {
		name                string
		env, args, packages []string
	}{{"race", nil, []string{"-race"}, with}, {"here", []string{"CGO_ENABLED=0"}, nil, without}} {
		if len(part.packages) == 0 {
			continue
		}
		l, err := s.lane(ctx, part.name, part.env, append(part.args, part.packages...), vms.take)
		if err != nil {
			return report{}, err
		}
		lanes = append(lanes, l)
	}
	// Beside what is left to the virtual machine: clusters have deadlines of their own, and more than that makes them late.
	if l, err := s.clusters(ctx, kube, vms.take); errors.Is(err, errKube) {
		missing, problems = s.cannot(missing, problems, "needs the programs of Kubernetes", err)
	} else if err != nil {
		return report{}, err
	} else if l != nil {
		lanes = append(lanes, l)
	}
	if os.Geteuid() != 0 {
		missing, problems = s.cannot(missing, problems, asRoot, errors.New("this is not root: tests ran in a user namespace, or not at all"))
	}
	emulated, err := vms.wait()
	if err != nil {
		missing, problems = s.cannot(missing, problems, inVM, err)
	}
	lanes = append(lanes, emulated...)
	rep := merge(lanes, allowed, missing)
	for _, p := range problems {
		rep.failures = append(rep.failures, failure{what: p})
	}
	for _, n := range pinned() {
		if !slices.Contains(before, n) {
			rep.failures = append(rep.failures, failure{what: "left over: namespace " + n})
		}
	}
	return rep, ctx.Err()
}

// cannot says so, loudly. In CI it is a failure; elsewhere the skips that name the lane are then allowed.
func (s *suite) cannot(missing, problems []string, words string, err error) ([]string, []string) {
	line := fmt.Sprintf("LANE DID NOT RUN (%s): %v", words, err)
	fmt.Println(line)
	if s.ci {
		return missing, append(problems, line)
	}
	return append(missing, words), problems
}

// lane runs go test, and says which package has ended.
func (s *suite) lane(ctx context.Context, name string, env, args []string, ended func(l *lane, pkg string)) (*lane, error) {
	l := newLane("lane " + name)
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1", "-timeout=30m"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	fmt.Println(strings.Join(append(env, cmd.Args...), " "))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return l, err
	}
	events, err := os.Create(filepath.Join(s.out, name+".json"))
	if err != nil {
		return l, err
	}
	defer events.Close()
	if err := cmd.Start(); err != nil {
		return l, err
	}
	readErr := l.read(io.TeeReader(stdout, events), os.Stdout, func(pkg string) { ended(l, pkg) })
	err = cmd.Wait()
	if readErr != nil {
		return l, readErr
	}
	if err != nil && !l.anyFailed() {
		return l, fmt.Errorf("go test: %w", err)
	}
	return l, nil
}

func (l *lane) anyFailed() bool {
	for _, key := range l.tests("") {
		if l.results[key].outcome == failed {
			return true
		}
	}
	return false
}

// pinned are the test namespaces that are there.
func pinned() []string {
	entries, err := os.ReadDir(pins)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, e.Name())
		}
	}
	return out
}
