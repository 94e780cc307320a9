//go:build linux

package agent

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

// runner is an agent at work: the loop, and those who tell it what has changed. One goroutine, that of run, owns its fields; the
// others post functions to it.
type runner struct {
	*core
	reg    *registration
	nets   *carriers
	fw     *firewall
	files  *files
	upkeep *upkeep

	mon   *rtnl.Monitor
	kick  chan struct{} // the kernel has changed by another's hand
	ask   chan struct{} // for the layout again: the store answers
	alert chan struct{} // parameters or rules have changed
	wg    sync.WaitGroup

	sourceDown bool     // the source reported trouble last
	out        []string // why entries of the source are not on the list
	warned     []string // what else the source says of entries
}

func newRunner(a *Agent) (*runner, error) {
	c := &core{Agent: a, log: a.Log, inbox: make(chan func()), clock: newClock(a)}
	var err error
	if c.conn, err = rtnl.Open(a.NS); err != nil {
		return nil, err
	}
	if c.saved.boot, err = boot.ID(); err != nil {
		return nil, err
	}
	mon, err := rtnl.OpenMonitor(a.NS, a.Buffer)
	if err != nil {
		return nil, err
	}
	r := &runner{core: c, mon: mon, reg: newRegistration(c), nets: newCarriers(c, mon), fw: newFirewall(c),
		kick: make(chan struct{}, 1), ask: make(chan struct{}, 1), alert: make(chan struct{}, 1)}
	r.files = &files{core: c, nets: r.nets, reg: r.reg, fw: r.fw}
	r.upkeep = newUpkeep(c, r.nets)
	r.st.with(func() { r.st.s.Started, r.st.needsTold = time.Now(), a.Registrar != nil })
	return r, nil
}

func (r *runner) close() {
	_ = r.mon.Close()
	r.fw.nft.close()
	r.clock.stop()
	r.wg.Wait()
}

func (r *runner) start(ctx context.Context, f func(context.Context)) {
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		f(ctx)
	}()
}

// heartbeat is how often the loop says that it lives, and looks at what nobody announces.
const heartbeat = 2 * time.Second

// Reasons of repairs that the kernel did not ask for.
const (
	whyResync = "it was time"
	whyError  = "an error before"
)

func (r *runner) run(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer r.saveNow()
	defer func() {
		cancel()
		_ = r.mon.Close()
	}()
	r.start(ctx, r.watchKernel)
	r.start(ctx, r.watchSource)
	r.start(ctx, r.fw.watchNFT)
	r.start(ctx, r.fetchLayout)
	r.recall()
	if r.Registrar != nil {
		r.start(ctx, r.reg.work)
	}
	r.due.endpoints = true
	for {
		if ctx.Err() == nil {
			if r.clock.turn == working {
				r.work(ctx)
			}
			r.files.block()
			r.report()
		}
		if !r.next(ctx) {
			return nil
		}
	}
}

// next waits for something to do, and says whose turn it is then; false at the end.
func (r *runner) next(ctx context.Context) bool {
	c := &r.clock
	was := c.turn
	c.turn = working
	select {
	case <-ctx.Done():
		return false
	case f := <-r.inbox:
		f()
		if c.backoff > 0 && !c.affordable() {
			c.turn = waiting
		}
	case <-r.kick:
		if r.due.look = c.affordable(); !r.due.look {
			c.turn = waiting
		}
	case <-c.retry.C:
		c.retries, r.files.filed = noRetry, nil
		r.due.all(whyError)
	case <-c.grace.C:
		if !r.useSaved() {
			c.turn = was
		}
	case <-c.resync.C:
		r.due.all(whyResync)
		r.retire()
	case <-r.alert:
		c.turn = was
		r.upkeep.heard(ctx)
	case <-c.again.C:
		c.turn = was
		_ = r.upkeep.keepUp(ctx) // it is in the status
	case <-c.beat.C:
		c.turn, r.files.filed = was, nil
		_ = r.upkeep.keepUp(ctx)
		r.fw.askLegacy()
		r.upkeep.askTunnels()
		if r.saved.dirty && r.phase >= applied {
			r.saveNow()
		}
		r.reg.reconsider()
	}
	return true
}

// retire forgets earlier ranges that no pod has addresses of.
func (r *runner) retire() {
	had := len(r.former)
	r.former = slices.DeleteFunc(r.former, func(p netip.Prefix) bool {
		n, err := r.users([]netip.Prefix{p})
		return err == nil && n == 0
	})
	if len(r.former) < had {
		r.fw.shrink()
		r.saved.dirty, r.due.firewall, r.due.build = true, true, true
	}
}

// watchKernel tells the loop when what the kernel announces matters. It compares in its own goroutine, so that the loop
// sleeps through all else.
func (r *runner) watchKernel(ctx context.Context) {
	for {
		why, lost, alert := "", false, false
		err := r.mon.Receive(func(e *rtnl.Event) {
			switch {
			case e.Subject == rtnl.Lost:
				lost, alert = true, true
				return
			case r.upkeep.heed(e):
				alert = true
			}
			if why == "" && r.nets.relevant(e) {
				why = rtnl.WithNames(e.String(), r.linkName)
				if r.nets.harms(e) {
					r.st.hurt(why)
				}
			}
		})
		if errors.Is(err, os.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.Error("the kernel's announcements cannot be read; the next resync looks", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			lost, alert = true, true
		}
		if alert {
			poke(r.alert)
		}
		if lost {
			r.st.lostEvents.Add(1)
			why = "announcements of the kernel were lost"
		}
		if why != "" {
			r.st.noteCause(why, lost)
			poke(r.kick)
		}
	}
}

// poke says something to whoever waits for it, once.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// linkName is "" for a link that is gone.
func (r *runner) linkName(index int) string {
	l, err := r.conn.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return l.Name
}

// networkSource is a source that states the network's prefixes too.
type networkSource interface {
	WatchNetwork(ctx context.Context) iter.Seq2[peer.Network, error]
}

// recycler is a source that can use the memory of an earlier list again.
type recycler interface{ Recycle([]peer.Peer) }

// watchSource hands the lists to the loop.
func (r *runner) watchSource(ctx context.Context) {
	if s, ok := r.Source.(networkSource); ok {
		for n, err := range s.WatchNetwork(ctx) {
			r.post(ctx, func() { r.take(n.Peers, n.Prefixes, err) })
		}
		return
	}
	for peers, err := range r.Source.Watch(ctx) {
		r.post(ctx, func() { r.take(peers, nil, err) })
	}
}

// take is a list of the source.
func (r *runner) take(peers []peer.Peer, prefixes []netip.Prefix, err error) {
	out, down := peer.Report(err)
	r.st.sourceSays(down)
	r.leaveOut(out)
	if down != nil {
		r.log.Warn("the source of peers reports", "error", down)
	} else if r.sourceDown {
		poke(r.ask)
		poke(r.reg.again)
	}
	r.sourceDown = down != nil
	if peers == nil {
		return
	}
	r.st.lists.Add(1)
	r.compare(r.list, peers)
	if s, ok := r.Source.(recycler); ok {
		s.Recycle(r.list)
	}
	r.list, r.saved.dirty, r.due.set = peers, true, true
	if derived := len(prefixes) == 0 && (r.layout == nil || len(r.layout.Prefixes) == 0); derived || !slices.Equal(prefixes, r.prefixes) {
		r.prefixes, r.due.build, r.due.firewall = prefixes, true, true
	}
	if r.Registrar == nil {
		r.findSelf()
	}
}
