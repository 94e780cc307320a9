//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
	"github.com/cniblocks/cniblocks/test/bench/internal/stats"
	"github.com/cniblocks/cniblocks/test/bench/internal/trace"
)

// executor runs the calls of a round.
type executor interface {
	// exec runs a call of an operation. check looks at the outcome before anything that the call left in the background
	// is waited for.
	exec(operation string, c scratch.Call, check func(out []byte) error) error
	// took records something else that the round measured.
	took(operation string, d time.Duration)
}

// untimed only runs, to warm up.
type untimed struct{ arm *arm }

func (u untimed) exec(_ string, c scratch.Call, check func([]byte) error) error {
	_, err := run1(u.arm, c, check)
	return err
}

func (u untimed) took(string, time.Duration) {}

// timed measures.
type timed struct {
	*run
	scenario string
	arm      *arm
}

func (t timed) exec(operation string, c scratch.Call, check func([]byte) error) error {
	cost, err := run1(t.arm, c, check)
	if err == nil {
		t.record(t.scenario, operation, t.arm.name, cost)
	}
	return err
}

func (t timed) took(operation string, d time.Duration) {
	t.rec.Add(t.scenario, operation, t.arm.name, "ms", report.Measure{Value: ms(d)})
}

// traced counts.
type traced struct {
	*run
	scenario string
	arm      *arm
}

func (t traced) exec(operation string, c scratch.Call, check func([]byte) error) error {
	out, counts, err := trace.Run(t.arm.world, c)
	if err != nil {
		return err
	}
	if t.Profile {
		fmt.Fprint(os.Stderr, counts.Profile(t.scenario+", "+operation+", "+t.arm.name))
	}
	t.rec.Count(t.scenario, operation, t.arm.name, report.Counts{
		Processes: counts.Processes, Syscalls: counts.Syscalls, NetlinkWrites: counts.NetlinkWrites,
	})
	return check(out)
}

func (t traced) took(string, time.Duration) {}

func run1(a *arm, c scratch.Call, check func([]byte) error) (scratch.Cost, error) {
	out, cost, err := a.world.Exec(c)
	if err == nil {
		err = check(out)
	}
	cost.Settle()
	return cost, err
}

func ignore([]byte) error { return nil }

func (r *run) record(scenario, operation, arm string, cost scratch.Cost) {
	r.rec.Add(scenario, operation, arm, "ms", report.Measure{
		Value: ms(cost.Wall), CPU: ms(cost.CPU), Settled: ms(cost.Settled),
	})
}

// patience is how long arms take turns in one scenario: on a slow machine there are fewer rounds.
func (r *run) patience() time.Duration { return pick(r, 45*time.Second, 8*time.Second) }

// interleave warms every arm up, lets them take turns (A B B A), and at last runs each once under strace.
func (r *run) interleave(scenario string, rounds int, arms []*arm, round func(*arm, executor) error) error {
	turn := func(a *arm, x executor) error {
		if err := round(a, x); err != nil {
			return fmt.Errorf("%s, %s: %w", scenario, a.name, err)
		}
		return nil
	}
	for _, a := range arms {
		if err := turn(a, untimed{a}); err != nil {
			return err
		}
	}
	for began, block := time.Now(), 0; block < rounds/2 && (block == 0 || time.Since(began) < r.patience()); block++ {
		for _, i := range stats.Order(len(arms)) {
			if err := turn(arms[i], timed{r, scenario, arms[i]}); err != nil {
				return err
			}
		}
	}
	if trace.Available() != nil {
		return nil
	}
	for _, a := range arms {
		if a.untraced {
			continue
		}
		if err := turn(a, traced{r, scenario, a}); err != nil {
			return err
		}
	}
	return nil
}

// attach is the round of most scenarios: ADD, see that it works, DEL, see that it is gone.
func (r *run) attach(a *arm, x executor) error {
	var at *scratch.Attachment
	err := x.exec("ADD", a.call(a.pod, "ADD", a.conf(nil)), func(out []byte) (err error) {
		at, err = r.works(a, a.pod, out)
		return err
	})
	if err != nil {
		return err
	}
	return x.exec("DEL", a.del(at), func([]byte) error { return at.Gone() })
}

// works takes the result of an ADD and sees that the attachment is what it says.
func (r *run) works(a *arm, p *scratch.Pod, out []byte) (*scratch.Attachment, error) {
	at, err := a.parse(p, out)
	if err != nil {
		return nil, err
	}
	lost, err := at.Works(a.net.IPMasq)
	r.lost[a.name] += lost
	return at, err
}

// add attaches a pod that stays.
func (r *run) add(a *arm, p *scratch.Pod) (*scratch.Attachment, error) {
	out, _, err := a.world.Exec(a.call(p, "ADD", a.conf(nil)))
	if err != nil {
		return nil, err
	}
	return r.works(a, p, out)
}
