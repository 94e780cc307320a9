//go:build linux

// Package wait tries again what another process, or the kernel in its own time, keeps from being done.
package wait

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// shortest is about the first pause.
const shortest = 50 * time.Microsecond

// Until calls try until it is done or fails. It pauses in between, twice as long each time and at last about longest; by
// chance up to half more or less, so that those who wait for one another get out of step. It gives up when ctx ends, with the
// cause as its error, and after patience, with [context.DeadlineExceeded]; 0 is no such limit.
//
// A context with a deadline would do the same, and starts the poller of Go's runtime even where the first try does it.
func Until(ctx context.Context, patience, longest time.Duration, try func() (done bool, err error)) error {
	begin := time.Now()
	for pause := shortest; ; pause = min(2*pause, longest) {
		if done, err := try(); done || err != nil {
			return err
		}
		if patience > 0 && time.Since(begin) > patience {
			return context.DeadlineExceeded
		}
		if err := nap(ctx, pause/2+rand.N(pause)); err != nil {
			return err
		}
	}
}

// Hasten, where a program has set it, is called by a thread that is about to wait for less than a millisecond.
var Hasten = func() {}

// nap sleeps until d is over or ctx ends, of which it takes no notice for less than a millisecond: that is the shortest time
// that Go's runtime sleeps for.
func nap(ctx context.Context, d time.Duration) error {
	if d < time.Millisecond {
		Hasten()
		t := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&t, nil) // a signal ends it, which is as good
		return context.Cause(ctx)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Lock takes the lock of an open file, see flock(2), with the patience and the pauses of [Until]. The lock ends with the last
// descriptor of the open file, or by LOCK_UN.
func Lock(ctx context.Context, fd int, patience, longest time.Duration) error {
	held := false
	err := Until(ctx, patience, longest, func() (bool, error) {
		err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
		if held = err == syscall.EWOULDBLOCK; held || err == syscall.EINTR {
			return false, nil
		}
		return err == nil, err
	})
	if held {
		return fmt.Errorf("another process holds it: %w", err)
	}
	return err
}
