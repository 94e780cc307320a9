//go:build linux

package kube_test

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
)

// onNode runs an agent on a machine of its own, eth0 of which has 192.0.2.1, as the Node a with 10.244.1.0/24. It returns the
// node file, and what the log says of warnings.
func (w *world) onNode(network string, e agent.Endpoints) (a *agent.Agent, ns *netns.NS, file func() node.File, said func() string) {
	w.t.Helper()
	w.add("a", nil, "10.244.1.0/24")
	ns = nstest.New(w.t)
	nstest.Link(w.t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: nstest.New(w.t), Name: "eth0"})
	nstest.Settle(w.t, ns)
	var mu sync.Mutex
	var b strings.Builder
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		b.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := w.store(network)
	dir := w.t.TempDir()
	a = &agent.Agent{NS: ns, Network: "pods", Name: w.node("a"), Source: s, Registrar: s, Endpoints: e, Resync: time.Hour,
		StateDir: filepath.Join(dir, "run"), DataDir: filepath.Join(dir, "lib"), LeaseDir: filepath.Join(dir, "leases"), Log: log}
	a.FollowFlannel(s.Config, s.WatchConfig)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		require.NoError(w.t, <-done)
	})
	file = func() node.File {
		w.t.Helper()
		f, err := node.Read(ns, filepath.Join(a.StateDir, "pods", "node.json"))
		require.NoError(w.t, err)
		return f
	}
	return a, ns, file, func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func (w *world) eventually(a *agent.Agent, what string, f func(agent.Status) bool) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return f(a.Status()) }, patience, 5*time.Millisecond, what)
}

func TestABadAnnotationIsCountedByTheAgentWithItsReasonAndTheSourceIsUp(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, api(t))
	a, _, _, said := w.onNode(netConf, agent.Endpoints{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	w.eventually(a, "ready", func(s agent.Status) bool { return s.Ready })
	w.add("good", vxlan(2), "10.244.2.0/24")
	w.add("wrong", vxlan(3), "10.244.3.0/24")
	w.eventually(a, "both", func(s agent.Status) bool { return s.Routes == 2 })
	w.annotate("wrong", map[string]string{"backend-data": `{"VNI":1,"VtepMAC":"no"}`})
	w.eventually(a, "the bad one", func(s agent.Status) bool { return s.Source.LeftOut == 1 && s.Routes == 1 })
	w.add("late", vxlan(4), "10.244.4.0/24")
	w.eventually(a, "a peer that joins meanwhile", func(s agent.Status) bool { return s.Routes == 2 })
	s := a.Status()
	require.True(t, s.Ready)
	require.Empty(t, s.Reasons)
	require.True(t, s.Source.Up)
	require.Zero(t, s.Source.Lag)
	require.Empty(t, s.Source.Error)
	require.Contains(t, s.Source.Why[0], w.node("wrong"))
	require.Contains(t, s.Source.Why[0], "/backend-data.VtepMAC")
	require.Equal(t, 1, strings.Count(said(), "an entry of the source is left out"), said())
	w.annotate("wrong", vxlan(3))
	w.eventually(a, "all", func(s agent.Status) bool { return s.Source.LeftOut == 0 && s.Routes == 3 })
	require.Contains(t, said(), "an entry of the source is no longer left out")
}

func TestAnUnderlayAddressThatGoesAwayWithdrawsReadinessAndIsNamedAndPasses(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	for name, network := range map[string]string{"vxlan": netConf, "host-gw": `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, api(t))
			a, ns, file, _ := w.onNode(network, agent.Endpoints{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
			other := vxlan(2)
			if other["backend-type"] = name; name == "host-gw" {
				other["backend-data"] = "null"
			}
			w.add("b", other, "10.244.2.0/24")
			w.eventually(a, "ready", func(s agent.Status) bool { return s.Ready && s.Routes == 1 })
			before := file()
			require.Empty(t, before.Blocked)
			h := nstest.Netlink(t, ns)
			eth0, err := h.LinkByName("eth0")
			require.NoError(t, err)
			addr, err := netlink.ParseAddr("192.0.2.1/24")
			require.NoError(t, err)
			require.NoError(t, h.AddrDel(eth0, addr))
			w.eventually(a, "not ready", func(s agent.Status) bool {
				return !s.Ready && strings.Contains(strings.Join(s.Reasons, "\n"), "has lost its ipv4 address")
			})
			w.eventually(a, "the node file", func(agent.Status) bool { return strings.Contains(file().Blocked, "has lost its ipv4 address") })
			require.Equal(t, before.MTU, file().MTU)
			nstest.AddAddrs(t, ns, "eth0", "192.0.2.1/24")
			w.eventually(a, "ready again", func(s agent.Status) bool { return s.Ready && s.Routes == 1 })
			require.Equal(t, before, file())
		})
	}
}
