//go:build linux

package agent_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// failures are the tries of an agent that failed, as its log has them.
type failures struct {
	slog.Handler
	mu  sync.Mutex
	all []failure
}

// failure is a try: when it had failed, and when the agent wants to try again.
type failure struct {
	at   time.Time
	wait time.Duration
}

func (f *failures) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "again in" {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.all = append(f.all, failure{r.Time, a.Value.Duration()})
		}
		return true
	})
	return f.Handler.Handle(ctx, r)
}

func (f *failures) so() []failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]failure(nil), f.all...)
}

// failing notes the failures of a prepared agent.
func (m *machine) failing() *failures {
	f := &failures{Handler: m.Log.Handler()}
	m.Log = slog.New(f)
	return f
}

func TestWhatFailsIsTriedAgainAfterTheTimeThatWasToldAndNotAtEveryHeartbeat(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	m, _, dev := steady(t, 2)
	m.stop()
	in(t, m.ns, "ip link set "+dev+" alias theirs")
	nstest.Settle(t, m.ns) // an address or a route that the kernel gets round to later would be a reason to try
	m.byFile("vxlan").Resync = time.Hour
	f := m.failing()
	m.run()
	time.Sleep(4 * heartbeat)
	until(t, "five failures", func() bool { return len(f.so()) >= 5 })
	tries := f.so()
	for i, later := range tries[1:] {
		require.GreaterOrEqual(t, later.at.Sub(tries[i].at), tries[i].wait, "try %d of %v", i+2, tries)
	}
	require.Contains(t, strings.Join(m.Status().Reasons, "\n"), "is not ours")
	in(t, m.ns, "ip link set "+dev+" alias cniblocks/pods")
	m.ready()
}

// burst is how many repairs an agent makes at once, perSecond how many go on.
const burst, perSecond = 40, 8

func TestWhatFailsIsNotTriedAgainAtEveryAnnouncement(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 2)
	w.peers(w.machines...)
	m := w.machines[0]
	m.byFile("vxlan").Resync = time.Hour
	f := m.failing()
	m.run()
	m.ready()
	dev := m.Status().Tunnels[0].Devices[0]
	h := nstest.Netlink(t, m.ns)
	link, err := h.LinkByName(dev)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetAlias(link, "theirs"))
	m.pods = []netip.Prefix{netip.MustParsePrefix("10.244.71.0/24"), netip.MustParsePrefix("fd00:10:244:71::/64")}
	w.peers(w.machines...) // for which the device has to be made anew
	until(t, "a failure", func() bool { return len(f.so()) > 0 })

	begin := time.Now()
	most := func() int { return burst + int(time.Since(begin).Seconds()+1)*(perSecond+1) }
	told := 0
	for ; time.Since(begin) < 2*heartbeat || told <= 2*most(); told++ { // with fewer nothing is proved
		require.Less(t, time.Since(begin), soon, "%d announcements", told)
		require.NoError(t, h.LinkSetMTU(link, 1300+told%2))
		time.Sleep(2 * time.Millisecond)
	}
	t.Logf("%d tries after %d announcements within %s", len(f.so()), told, time.Since(begin))
	require.LessOrEqual(t, len(f.so()), most())
	require.NoError(t, h.LinkSetAlias(link, "cniblocks/pods"))
	until(t, "the new range", func() bool { return m.Status().Ready && m.Status().Ranges[0] == m.pods[0] })
}

func TestTheLastOfManyHarmsIsMendedThoughTheyWereTooManyToMendEach(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 3)
	w.peers(w.machines[:2]...)
	m := w.machines[0]
	m.byFile("vxlan").Resync = time.Hour
	m.run()
	m.ready()
	h := nstest.Netlink(t, m.ns)
	_, dst, err := net.ParseCIDR("10.244.2.0/24")
	require.NoError(t, err)
	find := func() []netlink.Route {
		routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
		require.NoError(t, err)
		return routes
	}
	harms := 0
	for paused := false; !paused; harms++ {
		require.Less(t, harms, 10_000, "each is mended at once")
		require.NoError(t, h.RouteDel(&find()[0]))
		begin := time.Now()
		for len(find()) == 0 && !paused {
			require.Less(t, time.Since(begin), soon, "harm %d", harms)
			time.Sleep(time.Millisecond)
			paused = harms >= burst && time.Since(begin) > 200*time.Millisecond
		}
	}
	t.Logf("after %d harms there is a pause", harms)
	w.peers(w.machines...)
	until(t, "the new peer", func() bool { return strings.Contains(in(t, m.ns, "ip route show proto 117"), "10.244.3.0/24") })
	until(t, "the last harm", func() bool { return len(find()) == 1 })
	m.ready() // it was withdrawn for the harm
}
