//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fetchLayout asks until there is an answer.
func (r *runner) fetchLayout(ctx context.Context) {
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		l, err := r.Layout(ctx)
		if ctx.Err() != nil {
			return
		}
		r.post(ctx, func() {
			r.st.set(troubleLayout, err)
			if err != nil {
				r.log.Error("how the network is built is not known", "error", err)
				return
			}
			if r.layout == nil || !r.layout.equal(l) {
				r.layout, r.saved.dirty, r.due.build = &l, true, true
			}
		})
		if err == nil {
			r.watchLayout(ctx)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.ask:
		case <-time.After(wait):
		}
	}
}

// watchLayout tells of every change of what describes the network. Most changes would need devices of other kinds or pods
// with other addresses, at the same moment on all nodes: when that is to be is for people to decide.
func (r *runner) watchLayout(ctx context.Context) {
	if r.Changed == nil {
		return
	}
	for changed, err := range r.Changed(ctx) {
		var what error
		switch {
		case err != nil:
			what = fmt.Errorf("the network's configuration has changed and cannot be used; this agent goes on as it began, and would not start again: mend the configuration: %w", err)
		case changed:
			what = errors.New("the network's configuration has changed since this agent started, which goes on as it began: restart the agent to use it")
		}
		r.post(ctx, func() {
			if !r.st.tell(troubleChanged, what) {
				return
			}
			if what == nil {
				r.log.Info("the network's configuration is again that which this agent started with")
			} else {
				r.log.Warn(what.Error())
			}
		})
	}
}
