//go:build linux

// Command path measures the way of packets from pod to pod, on one node and across two, for our plugins, the reference
// bridge and a bare veth pair, in turns, in namespaces of its own. No packet leaves them.
//
//	go run ./test/bench/path
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
	"github.com/cniblocks/cniblocks/test/bench/internal/stats"
)

const introduction = "The way of a packet from pod to pod, measured by `make bench-path`: all paths take turns in one run. " +
	"Ratios are to the reference bridge; for round trips less is better, for rates more. One thread serves both ends of a " +
	"round trip, so that it is the path that is measured and not the scheduler. Both nodes and all pods share the machine's cores."

type options struct {
	ours, ref, tempDir   string
	rounds               int
	jsonFile, pageOnFile string
}

const (
	envRef    = "CNIBLOCKS_BENCH_REFERENCE"
	envResult = "CNIBLOCKS_BENCH_RESULT"
)

func main() {
	var o options
	flag.StringVar(&o.ours, "ours", "bin", "directory of our plugins")
	flag.StringVar(&o.ref, "ref", "", "directory of the reference plugins (default: built, "+reference.Version+")")
	flag.StringVar(&o.tempDir, "dir", "/var/tmp", "where to make the directory for the state of plugins")
	flag.IntVar(&o.rounds, "rounds", 12, "rounds of each path")
	flag.StringVar(&o.jsonFile, "json", "", "write the result to this file as JSON")
	flag.StringVar(&o.pageOnFile, "markdown", "", "write the result to this file as a page")
	flag.Parse()
	var err error
	if o.ours, err = filepath.Abs(o.ours); err == nil {
		if scratch.Dir() == "" {
			err = start(o)
		} else {
			err = inside(o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-path:", err)
		os.Exit(1)
	}
}

// start builds the reference, measures in scratch namespaces, and renders the result.
func start(o options) error {
	ref, err := filepath.Abs(o.ref)
	if o.ref == "" {
		ref, err = reference.Build("bridge", "host-local")
	}
	if err != nil {
		return err
	}
	result, err := os.CreateTemp("", "bench-path-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(result.Name())
	defer result.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := scratch.Start(ctx, o.tempDir, envRef+"="+ref, envResult+"="+result.Name()); err != nil {
		return err
	}
	rep := report.Report{}
	if err := json.NewDecoder(result).Decode(&rep); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	rep.Introduction = introduction
	fmt.Print(rep.Table())
	if o.jsonFile != "" {
		b, err := json.MarshalIndent(rep, "", "\t")
		if err == nil {
			err = os.WriteFile(o.jsonFile, append(b, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if o.pageOnFile != "" {
		return os.WriteFile(o.pageOnFile, rep.Markdown(filepath.Dir(o.pageOnFile), nil), 0o644)
	}
	return nil
}

// inside measures, in the scratch namespaces.
func inside(o options) error {
	if err := scratch.Enter(); err != nil {
		return err
	}
	rep := report.Report{
		Title: "Data path", Command: strings.TrimSpace("go run ./test/bench/path " + strings.Join(os.Args[1:], " ")),
		Date: time.Now().UTC().Truncate(time.Second), Machine: report.ThisMachine(),
		Ours: "cniblocks", Reference: "containernetworking/plugins " + reference.Version,
	}
	if rep.Machine.Busy() {
		rep.Notes = append(rep.Notes, "the machine was busy with something else: times are longer and further apart than they need be")
	}
	rep.Machine.FileSystem = scratch.FileSystem(scratch.Dir())
	b := &builder{ours: o.ours, ref: os.Getenv(envRef)}
	for _, s := range []struct {
		name  string
		lanes func() ([]*lane, []error)
	}{{"one node", b.oneNode}, {"two nodes", b.twoNodes}} {
		lanes, missing := s.lanes()
		for _, err := range missing {
			rep.Notes = append(rep.Notes, fmt.Sprintf("%s, not measured: %s", s.name, strings.Join(strings.Fields(err.Error()), " ")))
		}
		if len(lanes) == 0 {
			continue
		}
		rec := report.Recorder{Base: lanes[0].name}
		err := takeTurns(&rec, s.name, lanes, o.rounds)
		for _, l := range lanes {
			l.close()
		}
		if err != nil {
			return err
		}
		rep.Rows = append(rep.Rows, rec.Rows()...)
	}
	out, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv(envResult), out, 0o600)
}

// takeTurns measures everything on every lane in each round, forwards and backwards; the first block is to warm up.
func takeTurns(rec *report.Recorder, scenario string, lanes []*lane, rounds int) error {
	if rounds < 1 {
		return errors.New("-rounds: want at least 1")
	}
	for _, m := range measures {
		for round := range 1 + (rounds+1)/2 {
			for _, i := range stats.Order(len(lanes)) {
				l := lanes[i]
				v, err := m.run(l.from, l.to)
				if err != nil {
					return fmt.Errorf("%s, %s, %s: %w", scenario, l.name, m.name, err)
				}
				if round > 0 {
					rec.Add(scenario, m.name, l.name, m.unit, report.Measure{Value: v})
				}
			}
		}
	}
	return nil
}
