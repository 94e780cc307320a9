//go:build linux

// Program demo shows cniblocks on a machine that it never touches: it moves into namespaces of its own, plays a node, two
// pods and the outside world there, and proves that they talk and that nothing is left of them. It needs no program but Go,
// and of the kernel bridges, veth and nftables.
//
//	make demo
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

// demos are the plays by name. Each runs as the only process of a network namespace that is its node.
func demos() map[string]play {
	return map[string]play{
		"bridge":  {"two pods, a node and the outside world", bridgeDemo},
		"overlay": {"three machines joined by VXLAN", overlayDemo},
	}
}

type play struct {
	title string
	run   func(ctx context.Context, s *stage) error
}

const (
	standard = "bridge"
	patience = time.Minute
)

func main() {
	bin := flag.String("bin", "bin", "where 'make build' put the plugins")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "Usage: demo [-bin DIR] [NAME]\n\nNAME is one of %s; %s if not given.\n", strings.Join(names(), ", "), standard)
	}
	flag.Parse()
	name := standard
	if flag.NArg() > 0 {
		name = flag.Arg(0)
	}
	p, ok := demos()[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "demo: there is no demo %q%s\n", name, suggestion(name))
		os.Exit(2)
	}
	dir, err := filepath.Abs(*bin)
	if err == nil {
		err = needPrograms(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(moveInside())
	}
	os.Exit(perform(p, dir))
}

func names() []string { return slices.Sorted(maps.Keys(demos())) }

func suggestion(name string) string {
	if near, ok := nearest.Of(name, slices.Values(names())); ok {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return "; there are " + strings.Join(names(), ", ")
}

// perform runs a play inside.
func perform(p play, bin string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := isolate(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "cniblocks-demo-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	s := &stage{out: os.Stdout, bin: bin, dir: dir, start: time.Now()}
	fmt.Fprintf(s.out, "cniblocks demo: %s, in namespaces of their own\n", p.title)
	if err := p.run(ctx, s); err != nil {
		fmt.Fprintf(s.out, "\nThe demo failed. Nothing of this machine was touched, and nothing stays.\n")
		if os.Getenv(insideEnv) == asUser {
			fmt.Fprintf(s.out, "A plain user's namespaces may not do everything; 'sudo make demo' does.\n")
		}
		return 1
	}
	fmt.Fprintf(s.out, "\nAll %d steps passed in %.1f s. Nothing of this machine was touched.\n", s.steps, time.Since(s.start).Seconds())
	return 0
}
