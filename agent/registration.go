//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// registration is this node's entry in the store. The Registrar is spoken to in a goroutine of its own, since the store may
// take its time; of what that is told to do the last word counts. All else is the loop's.
type registration struct {
	*core
	state regState
	lost  error // why, in the states lost and reclaiming

	want  chan peer.Peer
	reach chan peer.Reach
	gone  chan error
	again chan struct{} // the store answers
}

// regState is whose the ranges are.
type regState uint8

const (
	unclaimed  regState = iota // they were not asked for, or there is no answer yet
	held                       // they are this node's
	lost                       // they were: pods go on, no new ones are attached
	reclaiming                 // lost, and asked for again
)

func newRegistration(c *core) *registration {
	return &registration{core: c, want: make(chan peer.Peer, 1), reach: make(chan peer.Reach, 1), gone: make(chan error), again: make(chan struct{}, 1)}
}

// isLost reports whether the ranges may be another's.
func (g *registration) isLost() bool { return g.state == lost || g.state == reclaiming }

func latest[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// publish tells how this node is reached, if the ranges are its own.
func (g *registration) publish(r peer.Reach) {
	if g.state == held {
		latest(g.reach, r)
	}
}

func (g *registration) work(ctx context.Context) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-g.want:
			stop()
			g.acquire(ctx, w)
			stop = g.guard(ctx)
		case reach := <-g.reach:
			g.announce(ctx, reach)
		case err := <-g.gone:
			stop()
			stop = func() {}
			g.post(ctx, func() { g.onLost(err) })
		}
	}
}

// patience is between two tries of what the store refused.
const patience = time.Second

// acquire tries until it has the ranges.
func (g *registration) acquire(ctx context.Context, want peer.Peer) {
	for wait := patience; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		self, err := g.Registrar.Acquire(ctx, want)
		if ctx.Err() != nil {
			return
		}
		g.post(ctx, func() { g.onAcquired(self, err) })
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-g.again:
		case <-time.After(wait):
		}
	}
}

// announce publishes until that is done, or something else is to be.
func (g *registration) announce(ctx context.Context, reach peer.Reach) {
	for wait := patience; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		err := g.Registrar.Publish(ctx, reach)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, peer.ErrLost) {
			g.post(ctx, func() { g.onLost(err) })
			return
		}
		g.post(ctx, func() { g.onPublished(reach, err) })
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case next := <-g.reach:
			reach = next
		case <-g.again:
		case <-time.After(wait):
		}
	}
}

// guard has the Registrar keep the ranges, and tells when they are lost.
func (g *registration) guard(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := g.Registrar.Lost(ctx)
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, peer.ErrLost) {
				select {
				case g.gone <- err:
				case <-ctx.Done():
				}
				return
			}
			g.post(ctx, func() { g.st.set(troublePublish, err) })
			select {
			case <-ctx.Done():
			case <-time.After(patience):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// claim asks for this node's ranges, the earlier ones if it had any.
func (g *registration) claim() {
	want := peer.Peer{Name: g.Name}
	switch {
	case g.self != nil:
		want.Pods = g.self.Pods
	case g.saved.Self != nil:
		want.Pods = g.saved.Self.Pods
	}
	latest(g.want, g.placed(want))
}

// onAcquired is the Registrar's answer.
func (g *registration) onAcquired(self peer.Peer, err error) {
	g.st.set(troubleRange, err)
	if err != nil {
		g.log.Error("this node has no range of pods", "error", err)
		return
	}
	g.state, g.lost = held, nil
	g.log.Info("this node's ranges", "name", self.Name, "ranges", self.Pods)
	g.become(g.placed(g.asBefore(self)))
	g.due.build = true // which publishes
}

// asBefore fills in what the store has not kept of this node's earlier life: a MAC that others may still send to.
func (g *registration) asBefore(self peer.Peer) peer.Peer {
	was := g.self
	if was == nil {
		was = g.saved.Self
	}
	if was == nil {
		return self
	}
	for _, e := range []struct{ now, then *peer.Endpoint }{{&self.V4, &was.V4}, {&self.V6, &was.V6}} {
		if e.now.MAC == (inet.MAC{}) {
			e.now.MAC = e.then.MAC
		}
	}
	return self
}

func (g *registration) onPublished(reach peer.Reach, err error) {
	g.st.set(troublePublish, err)
	if err != nil {
		g.log.Error("how this node is reached is not published", "error", err)
		return
	}
	g.st.published()
}

// onLost stops the use of the ranges for new pods; what stands goes on as well as it can.
func (g *registration) onLost(err error) {
	g.state, g.lost = lost, err
	g.st.set(troubleLost, err)
	g.log.Error("this node's ranges are lost", "error", err)
	g.st.losses.Add(1)
}

// reconsider is called now and then: a lost range is asked for again where that harms no pod. If nobody has taken it, it
// is simply this node's again. If somebody has, this node takes another one as soon as no pod has addresses of it.
func (g *registration) reconsider() {
	if g.state != lost || g.self == nil {
		return
	}
	if owner, taken := g.taken(); taken {
		n, err := g.users(g.self.Pods)
		if err != nil || n > 0 {
			g.st.set(troubleLost, errors.Join(fmt.Errorf("%w; %s has them now, and %d pods here still have such addresses: drain this node, a new range is taken when none is left", g.lost, owner, n), err))
			return
		}
	}
	g.state = reclaiming
	g.claim()
}

// taken tells which peer has a part of this node's ranges.
func (g *registration) taken() (owner string, taken bool) {
	for _, p := range g.list {
		if !g.mine(&p) && overlaps(p.Pods, g.self.Pods) {
			return "the node at " + listed(found{p.V4.Addr, p.V6.Addr}.list()), true
		}
	}
	return "", false
}
