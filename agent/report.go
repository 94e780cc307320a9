//go:build linux

package agent

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/overlay"
)

// report brings the status up to date after a piece of work.
func (r *runner) report() {
	var tunnels []TunnelStatus
	for _, c := range *r.nets.Load() {
		tunnels = append(tunnels, TunnelStatus{Encap: c.Encap, Devices: c.devices})
	}
	var was, now bool
	what := "ready"
	r.st.with(func() {
		was = r.st.s.Ready
		r.st.s.Tunnels, r.st.beat = tunnels, time.Now()
		var why []string
		now, why = r.st.ready()
		r.st.s.Ready = now
		if len(why) > 0 {
			what = why[0]
		}
	})
	switch {
	case now && !was:
		r.log.Info("ready", "peers", len(r.list), "ranges", r.self.Pods, "mtu", r.mtu())
	case was && !now:
		r.log.Warn("no longer ready", "why", what)
	}
	if r.Alive != nil {
		r.Alive(now, what)
	}
}

// tellRefused puts the peers that are left out into the status.
func (r *runner) tellRefused() {
	refused := slices.Clone(r.odd)
	for _, c := range *r.nets.Load() {
		refused = append(refused, c.refused...)
	}
	r.news(r.refused, refused, "a peer is left out", "a peer is no longer left out")
	r.refused = refused
	r.st.with(func() { r.st.s.Refused = refused[:min(len(refused), mostTold)] })
}

// mostTold is how many of what is left out the status tells.
const mostTold = 100

// lives reports whether the loop has come around lately.
func (k *statusKeeper) lives() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.beat) < 15*heartbeat
}

// countRoutes counts our routes in the kernel.
func (a *Agent) countRoutes() int {
	c, err := rtnl.Open(a.NS)
	if err != nil {
		return 0
	}
	const more = 64
	room := make([]rtnl.Route, 0, a.st.routes.Load()+more)
	routes, err := c.RoutesInto(room, rtnl.RouteFilter{Table: unix.RT_TABLE_MAIN, Proto: overlay.Proto})
	if err != nil {
		return 0
	}
	a.st.routes.Store(int64(len(routes)))
	return len(routes)
}

// budget bounds how often another program can make the agent repair: forty at once, eight a second.
type budget struct {
	tokens float64
	at     time.Time
}

func (b *budget) take() bool {
	const burst, perSecond = 40, 8
	now := time.Now()
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()*perSecond)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// affordable reports whether there may be a repair, or another try, now; else it plans one.
func (r *runner) affordable() bool {
	if r.budget.take() {
		return true
	}
	if !r.planned {
		r.planned = true
		r.retry.Reset(time.Second)
	}
	return false
}
