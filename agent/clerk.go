//go:build linux

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// clerk speaks to the Registrar, in a goroutine of its own since the store may take its time. Of what it is told to do
// the last word counts.
type clerk struct {
	r     *runner
	want  chan peer.Peer
	reach chan peer.Reach
	lost  chan error
	ask   chan struct{} // again: the store answers
}

func (r *runner) openClerk(ctx context.Context) {
	r.clerk = &clerk{r: r, want: make(chan peer.Peer, 1), reach: make(chan peer.Reach, 1), lost: make(chan error), ask: make(chan struct{}, 1)}
	r.start(ctx, r.clerk.work)
}

func latest[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// claim and publish say what is to be done; the loop alone calls them.
func (c *clerk) claim(p peer.Peer)    { latest(c.want, p) }
func (c *clerk) publish(r peer.Reach) { latest(c.reach, r) }

func (c *clerk) work(ctx context.Context) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-c.want:
			stop()
			c.acquire(ctx, w)
			stop = c.guard(ctx)
		case reach := <-c.reach:
			c.announce(ctx, reach)
		case err := <-c.lost:
			stop()
			stop = func() {}
			c.r.post(ctx, func() { c.r.onLost(err) })
		}
	}
}

// patience is between two tries of what the store refused.
const patience = time.Second

// acquire tries until it has the ranges.
func (c *clerk) acquire(ctx context.Context, want peer.Peer) {
	for wait := patience; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		self, err := c.r.Registrar.Acquire(ctx, want)
		if ctx.Err() != nil {
			return
		}
		c.r.post(ctx, func() { c.r.onAcquired(self, err) })
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-c.ask:
		case <-time.After(wait):
		}
	}
}

// announce publishes until that is done, or something else is to be.
func (c *clerk) announce(ctx context.Context, reach peer.Reach) {
	for wait := patience; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		err := c.r.Registrar.Publish(ctx, reach)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, peer.ErrLost) {
			c.r.post(ctx, func() { c.r.onLost(err) })
			return
		}
		c.r.post(ctx, func() { c.r.onPublished(reach, err) })
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case next := <-c.reach:
			reach = next
		case <-c.ask:
		case <-time.After(wait):
		}
	}
}

// guard has the Registrar keep the ranges, and tells when they are lost.
func (c *clerk) guard(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := c.r.Registrar.Lost(ctx)
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, peer.ErrLost) {
				select {
				case c.lost <- err:
				case <-ctx.Done():
				}
				return
			}
			c.r.post(ctx, func() { c.r.st.set(troublePublish, err) })
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
