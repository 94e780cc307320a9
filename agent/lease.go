//go:build linux

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// claim asks for this node's ranges, the earlier ones if it had any.
func (r *runner) claim() {
	want := peer.Peer{Name: r.Name}
	switch {
	case r.self != nil:
		want.Pods = r.self.Pods
	case r.memory.Self != nil:
		want.Pods = r.memory.Self.Pods
	}
	r.clerk.claim(r.placed(want))
}

// onAcquired is the Registrar's answer.
func (r *runner) onAcquired(self peer.Peer, err error) {
	r.st.set(troubleRange, err)
	if err != nil {
		r.log.Error("this node has no range of pods", "error", err)
		return
	}
	r.held, r.lost, r.asking = true, nil, false
	r.log.Info("this node's ranges", "name", self.Name, "ranges", self.Pods)
	r.become(r.placed(r.asBefore(self)))
	r.due.build = true // which publishes
}

// asBefore fills in what the store has not kept of this node's earlier life: a MAC that others may still send to.
func (r *runner) asBefore(self peer.Peer) peer.Peer {
	was := r.self
	if was == nil {
		was = r.memory.Self
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

func (r *runner) onPublished(reach peer.Reach, err error) {
	r.st.set(troublePublish, err)
	if err != nil {
		r.log.Error("how this node is reached is not published", "error", err)
		return
	}
	r.st.published()
}

// onLost stops the use of the ranges for new pods; what stands goes on as well as it can.
func (r *runner) onLost(err error) {
	r.held, r.lost, r.asking = false, err, false
	r.st.set(troubleLost, err)
	r.log.Error("this node's ranges are lost", "error", err)
	r.st.losses.Add(1)
}

// reconsider is called now and then: a lost range is asked for again where that harms no pod. If nobody has taken it, it
// is simply this node's again. If somebody has, this node takes another one as soon as no pod has addresses of it.
func (r *runner) reconsider() {
	if r.saved.dirty && r.set {
		r.saveNow()
	}
	if r.lost == nil || r.asking || r.self == nil {
		return
	}
	if owner, taken := r.taken(); taken {
		n, err := r.users(r.self.Pods)
		if err != nil || n > 0 {
			r.st.set(troubleLost, errors.Join(fmt.Errorf("%w; %s has them now, and %d pods here still have such addresses: drain this node, a new range is taken when none is left", r.lost, owner, n), err))
			return
		}
	}
	r.asking = true
	r.claim()
}

// taken tells which peer has a part of this node's ranges.
func (r *runner) taken() (owner string, taken bool) {
	for _, p := range r.list {
		if !r.mine(&p) && overlaps(p.Pods, r.self.Pods) {
			return fmt.Sprintf("the node at %v", found{p.V4.Addr, p.V6.Addr}.list()), true
		}
	}
	return "", false
}

// retire forgets earlier ranges that no pod has addresses of.
func (r *runner) retire() {
	if len(r.former) == 0 {
		return
	}
	had := len(r.former)
	r.former = slices.DeleteFunc(r.former, func(p netip.Prefix) bool {
		n, err := r.users([]netip.Prefix{p})
		return err == nil && n == 0
	})
	if len(r.former) < had {
		r.saved.dirty, r.shrink, r.due.firewall, r.due.build = true, true, true, true
	}
}
