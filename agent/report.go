//go:build linux

package agent

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/overlay"
)

// report brings the status up to date after a piece of work.
func (r *runner) report() {
	var tunnels []TunnelStatus
	for _, c := range r.nets.each() {
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
		r.log.Info("ready", "peers", len(r.list), "ranges", r.self.Pods, "mtu", r.nets.mtu())
	case was && !now:
		r.log.Warn("no longer ready", "why", what)
	}
	if r.Alive != nil {
		r.Alive(now, what)
	}
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
