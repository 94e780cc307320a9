//go:build linux

package agent

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// runner is an agent at work. One goroutine, that of run, owns its fields; the others post functions to it.
type runner struct {
	*Agent
	log   *slog.Logger
	conn  *rtnl.Conn
	mon   *rtnl.Monitor
	inbox chan func()
	kick  chan struct{} // the kernel has changed by another's hand
	ask   chan struct{} // for the layout again: the store answers
	alert chan struct{} // parameters or rules have changed
	wg    sync.WaitGroup
	clerk *clerk // speaks to the Registrar; nil without one

	layout   *Layout
	self     *peer.Peer // this node, with what it published
	stated   peer.Peer  // this node as the last list has it, without a Registrar
	former   []netip.Prefix
	list     []peer.Peer // the last good one; nil before the first
	ill      bool        // the source reported trouble last
	odd      []string    // why peers of it are left out
	refused  []string    // the same, and why the tunnels leave others out
	out      []string    // why entries of the source are not on it
	warned   []string    // what else the source says of entries
	prefixes []netip.Prefix
	held     bool // the Registrar said that the ranges are this node's
	lost     error
	asking   bool  // for ranges in place of those that were lost
	set      bool  // a list was applied
	at       found // its addresses on the underlay, with a Registrar
	memory   memory
	boot     string

	nets    atomic.Pointer[[]*carrier]   // read by the monitor's goroutine too
	unbuilt atomic.Bool                  // they are not those of what this node is now, since they could not be made
	heeded  atomic.Pointer[map[int]bool] // links whose parameters count; so is this
	upkeep  upkeep
	legacy  uint64 // what xtables.Fingerprint said last

	due     due
	retry   *time.Timer
	backoff time.Duration
	waits   bool // for the time of another try, or for news
	planned bool // a look at everything, by the timer, in place of one that was too much
	budget  budget
	saved   saved
	filed   *node.File // what is in the files, since they were looked at last; nil: look
	blocks  string     // why no pod may be attached, as the node file says
	nft     *nftMonitor
	mended  bool           // the firewall was put in place once
	shrink  bool           // it still names what is this node's or the network's no more
	named   []netip.Prefix // of the network, which it has been brought in step with; nil: it has not
	adopted bool
}

// due is what has to be done.
type due struct {
	endpoints, build, set, repair, firewall, look bool
	why                                           string // of the repair
}

func newRunner(a *Agent) (*runner, error) {
	r := &runner{Agent: a, log: a.Log, inbox: make(chan func()), kick: make(chan struct{}, 1), ask: make(chan struct{}, 1),
		alert: make(chan struct{}, 1), retry: time.NewTimer(time.Hour)}
	r.retry.Stop()
	r.upkeep = upkeep{truces: map[string]*truce{}, nfcall: map[string]string{}, refused: map[string]bool{}, again: time.NewTimer(time.Hour)}
	r.upkeep.again.Stop()
	var err error
	if r.conn, err = rtnl.Open(a.NS); err != nil {
		return nil, err
	}
	if r.mon, err = rtnl.OpenMonitor(a.NS, a.Buffer); err != nil {
		return nil, err
	}
	if r.nft, err = openNFT(a.NS); err != nil {
		r.log.Debug("nftables is not watched", "error", err)
	}
	if r.legacy, err = xtables.Fingerprint(a.NS); err != nil {
		r.log.Debug("the legacy tables cannot be read", "error", err)
	}
	r.nets.Store(&[]*carrier{})
	if r.boot, err = boot.ID(); err != nil {
		return nil, errors.Join(err, r.mon.Close())
	}
	r.st.with(func() { r.st.s.Started, r.st.needsTold = time.Now(), a.Registrar != nil })
	return r, nil
}

func (r *runner) close() {
	_ = r.mon.Close()
	r.nft.close()
	r.wg.Wait()
}

// post has the loop call f; it gives up when ctx is done.
func (r *runner) post(ctx context.Context, f func()) {
	select {
	case r.inbox <- f:
	case <-ctx.Done():
	}
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
	r.start(ctx, r.watchNFT)
	r.start(ctx, r.fetchLayout)
	r.recall()
	if r.Registrar != nil {
		r.openClerk(ctx)
	}
	grace := time.NewTimer(r.Grace)
	defer grace.Stop()
	resync := time.NewTicker(r.Resync)
	defer resync.Stop()
	beat := time.NewTicker(r.Look)
	defer beat.Stop()
	defer r.retry.Stop()
	defer r.upkeep.again.Stop()
	r.due.endpoints = true
	for {
		if ctx.Err() == nil {
			if !r.waits {
				r.work(ctx)
			}
			r.block()
			r.report()
		}
		waits := r.waits
		r.waits = false
		select {
		case <-ctx.Done():
			return nil
		case f := <-r.inbox:
			f()
			r.waits = r.backoff > 0 && !r.affordable()
		case <-r.kick:
			r.due.look = r.affordable()
			r.waits = !r.due.look
		case <-r.retry.C:
			r.planned, r.filed = false, nil
			r.all(whyError)
		case <-grace.C:
			r.waits = !r.useMemory() && waits
		case <-resync.C:
			r.all(whyResync)
			r.retire()
		case <-r.alert:
			r.waits = waits
			r.heard(ctx)
		case <-r.upkeep.again.C:
			r.waits = waits
			_ = r.keepUp(ctx) // it is in the status
		case <-beat.C:
			r.waits, r.filed = waits, nil
			_ = r.keepUp(ctx)
			r.askLegacy()
			r.askTunnels()
			r.reconsider()
		}
	}
}

// all makes the loop look at everything.
func (r *runner) all(why string) {
	r.due.repair, r.due.firewall, r.due.endpoints = true, true, true
	r.because(why)
}

func (r *runner) because(why string) {
	if r.due.why == "" {
		r.due.why = why
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
			case r.heed(e):
				alert = true
			}
			if why == "" && r.concerns(e) {
				why = rtnl.WithNames(e.String(), r.linkName)
				if r.harms(e) {
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

// concerns asks the networks, and looks for a change of this node's own addresses.
func (r *runner) concerns(e *rtnl.Event) bool {
	for _, c := range *r.nets.Load() {
		if c.Relevant(e) {
			return true
		}
	}
	if len(*r.nets.Load()) > 0 && !r.unbuilt.Load() {
		return false
	}
	switch e.Subject { // what may let them be made
	case rtnl.AddrEvent:
		return true
	case rtnl.LinkEvent:
		return e.Link.Tunnel() == nil
	case rtnl.RouteEvent:
		return e.Route.Proto != overlay.Proto && e.Route.Type == unix.RTN_UNICAST
	}
	return false
}

// harms reports whether it was something of ours that another program changed, and not the underlay.
func (r *runner) harms(e *rtnl.Event) bool {
	switch e.Subject {
	case rtnl.LinkEvent:
		return slices.ContainsFunc(*r.nets.Load(), func(c *carrier) bool {
			return c.Owns(e.Link.Index) || c.Tunnel.Bridge != "" && c.Tunnel.Bridge == e.Link.Name
		})
	case rtnl.AddrEvent:
		return slices.ContainsFunc(*r.nets.Load(), func(c *carrier) bool { return c.Owns(e.Addr.Link) })
	case rtnl.RouteEvent:
		return e.Route.Proto == overlay.Proto
	}
	return e.Subject == rtnl.NeighEvent || e.Subject == rtnl.FDBEvent
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
	} else if r.ill {
		poke(r.ask)
		if r.clerk != nil {
			poke(r.clerk.ask)
		}
	}
	r.ill = down != nil
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

// findSelf looks for this node in a list that states its ranges. One that was found by its address is the peer of that name
// for as long as the address is gone.
func (r *runner) findSelf() {
	host, _ := os.Hostname()
	self, err := peer.Self(r.list, r.Name, r.addresses(), host)
	if err != nil && r.Name == "" && r.stated.Name != "" {
		if same, gone := peer.Self(r.list, r.stated.Name, nil, ""); gone == nil {
			self, err = same, nil
		}
	}
	if r.st.set(troubleSelf, err); err != nil || r.self != nil && r.stated.Equal(self) {
		return
	}
	r.stated = self
	r.become(self)
}

// become makes this node another one than before: its first self, new ranges, new addresses.
func (r *runner) become(self peer.Peer) {
	if r.self != nil && r.self.Equal(self) {
		return
	}
	if r.self != nil {
		for _, old := range r.self.Pods {
			if !slices.Contains(self.Pods, old) && !slices.Contains(r.former, old) {
				r.former = append(r.former, old)
				r.log.Warn("this node has another range; pods that have addresses of the old one keep them", "old", old, "new", self.Pods)
			}
		}
	}
	r.former = slices.DeleteFunc(r.former, func(f netip.Prefix) bool { return slices.Contains(self.Pods, f) })
	r.self = &self
	r.saved.dirty, r.due.build, r.due.firewall = true, true, true
}
