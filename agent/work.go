//go:build linux

package agent

import (
	"context"
	"errors"

	"github.com/cniblocks/cniblocks/peer"
)

// work does what is due, and plans another try where it fails.
func (r *runner) work(ctx context.Context) {
	d := r.due
	r.due = due{}
	if d.repair = d.repair || d.look; d.repair { // one that was planned answers announcements too
		d.why = r.st.takeCause(d.why)
	}
	if d.endpoints || d.repair {
		r.locate()
		d.build, d.firewall = d.build || r.due.build, d.firewall || r.due.firewall
		r.due = due{}
	}
	if r.layout == nil || r.self == nil {
		r.due.keep(due{set: d.set, firewall: d.firewall, build: true})
		return
	}
	r.carry(ctx, d)
	if !d.repair && !d.build || r.clock.turn == waiting || ctx.Err() != nil {
		return
	}
	// An address that came after the first look and before the kernel was read is no news to the networks when it is announced.
	was := r.at
	if r.locate(); r.at != was {
		r.work(ctx)
	}
}

// carry brings the kernel and the files in step.
func (r *runner) carry(ctx context.Context, d due) {
	var err error
	switch {
	case d.build || r.nets.state.Load() == unbuilt:
		if err := r.formerGateways(ctx); err != nil {
			r.log.Warn("gateways of ranges that are not this node's any more", "error", err)
		}
		var reach peer.Reach
		if reach, err = r.nets.build(ctx); err != nil {
			r.due.build = true
		} else {
			r.reg.publish(reach)
			err = r.nets.setAll(ctx)
		}
	case d.set && !d.repair:
		err = r.nets.setAll(ctx)
	case d.repair:
		_ = r.upkeep.keepUp(ctx) // an address, say, is refused where IPv6 is off
		err = r.nets.repairAll(ctx, d.why, d.set)
	}
	if ctx.Err() != nil {
		return
	}
	r.st.set(troubleNetwork, err)
	r.st.healed()
	firewall := d.firewall || r.fw.state == closed
	if d.build || d.repair || firewall {
		err = errors.Join(err, r.upkeep.keepUp(ctx)) // of new devices too
	}
	if err == nil && firewall {
		err = r.fw.ensure(ctx)
		if ctx.Err() != nil {
			return
		}
		r.st.set(troubleFirewall, err)
	}
	if filed := r.files.keep(); filed != nil || err == nil {
		r.st.set(troubleFiles, filed)
		err = errors.Join(err, filed)
	}
	if err == nil {
		r.clock.succeeded()
		return
	}
	r.due.keep(due{set: d.set})
	r.clock.failed()
	r.log.Error("the node is not as it should be", "error", err, "again in", r.clock.backoff)
}

// locate finds this node's addresses, and makes it another node if they are others than before.
func (r *runner) locate() {
	if r.Registrar == nil {
		if r.list != nil && r.st.said(troubleSelf) != "" {
			r.findSelf()
		}
		return
	}
	at, err := r.Endpoints.find(r.conn, r.isPod)
	if err == nil {
		at = r.steady(at)
	}
	if lost := r.miss(at); lost != nil {
		err = errors.Join(lost, err)
	}
	if r.st.set(troubleEndpoint, err); err != nil || at == r.at {
		return
	}
	r.log.Info("this node's addresses", "addresses", at.list())
	r.at = at
	if r.self == nil {
		r.reg.claim()
		return
	}
	r.become(r.placed(*r.self))
}
