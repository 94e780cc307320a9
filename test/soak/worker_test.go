//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/tracer"
)

// worker works on slots of its own. What it does depends on its random numbers alone, not on what others do meanwhile.
type worker struct {
	*run
	rng   *rand.Rand
	slots []*slot
	count map[string]int
	now   string // what it does
}

// choice is something that may be done in a state.
type choice struct {
	name   string
	weight int
	do     func(*worker, context.Context, *slot) error
}

var choices = map[state][]choice{
	absent: {
		{"ADD", 68, (*worker).add}, {"ADD killed", 10, (*worker).addKilled}, {"ADD without namespace", 6, (*worker).addNowhere},
		{"ADD with a wrong configuration", 6, (*worker).addWrong}, {"DEL of nothing", 6, (*worker).del}, {"GC", 4, (*worker).collect},
	},
	attached: {
		{"CHECK", 24, (*worker).check}, {"duplicate ADD", 10, (*worker).addAgain}, {"DEL", 33, (*worker).del},
		{"DEL with a changed configuration", 12, (*worker).delChanged}, {"DEL killed", 10, (*worker).delKilled},
		{"namespace removed", 8, (*worker).lose}, {"GC", 3, (*worker).collect},
	},
	lost: {
		{"DEL", 60, (*worker).del}, {"CHECK of a lost one", 20, (*worker).checkLost}, {"GC", 20, (*worker).collect},
	},
	unknown: {
		{"DEL after a kill", 75, (*worker).del}, {"GC after a kill", 25, (*worker).collect},
	},
}

// step does one thing, chosen at random.
func (w *worker) step(ctx context.Context) error {
	s := w.slots[w.rng.IntN(len(w.slots))]
	total := 0
	for _, c := range choices[s.state] {
		total += c.weight
	}
	n := w.rng.IntN(total)
	for _, c := range choices[s.state] {
		if n -= c.weight; n >= 0 {
			continue
		}
		w.count[c.name]++
		w.now = fmt.Sprintf("%s, network %s, slot %d, life %d", c.name, s.name, s.n, s.life)
		if err := c.do(w, ctx, s); err != nil {
			return fmt.Errorf("%s: %w", w.now, err)
		}
		return nil
	}
	return errors.New("the weights do not add up")
}

func (w *worker) conf(s *slot) string { return s.conf(s.network, w.generation, s.variant, s.n) }

// call runs a plugin while no GC of the network runs.
func (w *worker) call(ctx context.Context, s *slot, verb cni.Verb, conf string) ([]byte, error) {
	return w.m.Do(ctx, machine.Call{Verb: verb, ID: s.id, NetNS: s.pod.Path, Conf: conf})
}

// begin gives an absent slot its next attachment: now and then in a new namespace.
func (w *worker) begin(s *slot) error {
	s.life++
	s.id, s.variant = fmt.Sprintf("s%d-%d", s.n, s.life), w.rng.IntN(variants)
	if s.pod.NS != nil && w.rng.IntN(8) > 0 {
		return nil
	}
	if s.pod.NS != nil {
		if err := s.pod.Close(); err != nil {
			return err
		}
	}
	pod, err := w.m.Pod(s.id)
	s.pod = pod
	return err
}

func (w *worker) add(ctx context.Context, s *slot) error {
	if err := w.begin(s); err != nil {
		return err
	}
	s.gc.RLock()
	defer s.gc.RUnlock()
	out, err := w.call(ctx, s, cni.ADD, w.conf(s))
	if err == nil {
		s.state, s.result = attached, out
	}
	return err
}

// broken is a configuration with a value of the wrong kind.
func broken(conf string) string {
	if strings.Contains(conf, `"type":"flannel"`) {
		return machine.With(conf, "delegate", 7)
	}
	return machine.With(conf, "mtu", "large")
}

// refused makes sure that an error has a code.
func refused(err error, code cni.Code) error {
	var r *machine.Refusal
	if !errors.As(err, &r) || r.Code != code {
		return fmt.Errorf("want code %d, not: %w", code, errors.Join(err, errors.New("(no more)")))
	}
	return nil
}

func (w *worker) addAgain(ctx context.Context, s *slot) error {
	s.gc.RLock()
	defer s.gc.RUnlock()
	_, err := w.call(ctx, s, cni.ADD, w.conf(s))
	if err := refused(err, cni.ErrConfig); err != nil {
		return err
	}
	_, err = w.call(ctx, s, cni.CHECK, machine.Check(w.conf(s), s.result))
	return err
}

func (w *worker) addNowhere(ctx context.Context, s *slot) error {
	s.gc.RLock()
	defer s.gc.RUnlock()
	_, err := w.m.Do(ctx, machine.Call{Verb: cni.ADD, ID: fmt.Sprintf("nowhere%d", s.n), NetNS: w.m.Dir + "/pod-none", Conf: w.conf(s)})
	return refused(err, cni.ErrUnknownContainer)
}

func (w *worker) addWrong(ctx context.Context, s *slot) error {
	if err := w.begin(s); err != nil {
		return err
	}
	s.gc.RLock()
	defer s.gc.RUnlock()
	_, err := w.call(ctx, s, cni.ADD, broken(w.conf(s)))
	return refused(err, cni.ErrConfig)
}

func (w *worker) check(ctx context.Context, s *slot) error {
	s.gc.RLock()
	defer s.gc.RUnlock()
	_, err := w.call(ctx, s, cni.CHECK, machine.Check(w.conf(s), s.result))
	return err
}

func (w *worker) checkLost(ctx context.Context, s *slot) error {
	s.gc.RLock()
	defer s.gc.RUnlock()
	_, err := w.call(ctx, s, cni.CHECK, machine.Check(w.conf(s), s.result))
	return refused(err, cni.ErrUnknownContainer)
}

// del calls DEL as it comes: with the namespace or without, with the result or without.
func (w *worker) del(ctx context.Context, s *slot) error {
	conf := w.conf(s)
	if s.result != nil && w.rng.IntN(2) == 0 {
		conf = machine.Check(conf, s.result)
	}
	return w.delWith(ctx, s, conf)
}

// delChanged calls DEL with what an administrator made of the configuration meanwhile.
func (w *worker) delChanged(ctx context.Context, s *slot) error {
	conf := w.conf(s)
	switch w.rng.IntN(3) {
	case 0:
		conf = s.conf(s.network, w.generation+1, s.variant+1, s.n)
	case 1:
		conf = broken(conf)
	case 2:
		conf = machine.With(conf, "ipMasqExcept", []string{"203.0.113.0/25"})
	}
	return w.delWith(ctx, s, conf)
}

func (w *worker) delWith(ctx context.Context, s *slot, conf string) error {
	c := machine.Call{Verb: cni.DEL, ID: s.id, NetNS: s.pod.Path, Conf: conf}
	if s.id == "" {
		c.ID = fmt.Sprintf("never%d", s.n)
	}
	if w.rng.IntN(3) == 0 {
		c.NetNS = ""
	}
	s.gc.RLock()
	defer s.gc.RUnlock()
	if _, err := w.m.Do(ctx, c); err != nil {
		return err
	}
	was := s.state
	s.state, s.result = absent, nil
	if was == lost || s.pod.NS == nil {
		return nil
	}
	return empty(s.pod)
}

// empty makes sure that a namespace has no eth0.
func empty(p machine.Pod) error {
	return p.NS.Do(func() error {
		if l, err := net.InterfaceByName("eth0"); err == nil {
			return fmt.Errorf("the namespace still has %+v", *l)
		}
		return nil
	})
}

func (w *worker) lose(_ context.Context, s *slot) error {
	s.gc.RLock()
	defer s.gc.RUnlock()
	s.state = lost
	err := s.pod.Close()
	s.pod.NS = nil
	return err
}

func (w *worker) addKilled(_ context.Context, s *slot) error {
	if err := w.begin(s); err != nil {
		return err
	}
	return w.killed(s, machine.Call{Verb: cni.ADD, ID: s.id, NetNS: s.pod.Path, Conf: w.conf(s)})
}

func (w *worker) delKilled(_ context.Context, s *slot) error {
	return w.killed(s, machine.Call{Verb: cni.DEL, ID: s.id, NetNS: s.pod.Path, Conf: w.conf(s)})
}

// killed runs a plugin and kills it, before one of its changes or at any time. What it did is not known then, nor is it
// if the kill came too late: the runtime was not told.
func (w *worker) killed(s *slot, c machine.Call) error {
	atChange, after := 1+w.rng.IntN(60), time.Duration(w.rng.IntN(20_000))*time.Microsecond
	traced := w.rng.IntN(2) == 0
	s.gc.RLock()
	defer s.gc.RUnlock()
	s.state, s.result = unknown, nil
	cmd, close, err := w.m.Command(context.Background(), c)
	if err != nil {
		return err
	}
	defer close()
	return w.m.NS.Do(func() error {
		if traced {
			_, err := tracer.Run(cmd, func(n int) bool { return n < atChange })
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		time.Sleep(after)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil
	})
}

// collect calls GC with what is attached. What this worker lost or killed in the network is gone then.
func (w *worker) collect(ctx context.Context, s *slot) error {
	s.gc.Lock()
	defer s.gc.Unlock()
	if err := w.collectNetwork(ctx, s.network); err != nil {
		return err
	}
	for _, mine := range w.slots {
		if mine.network == s.network && (mine.state == lost || mine.state == unknown) {
			mine.state, mine.result = absent, nil
		}
	}
	return nil
}
