//go:build linux

package runtimes_test

import (
	"net/netip"
	"os"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/internal/node"
	"github.com/cniblocks/cniblocks/test/runtimes/internal/library"
)

// talk proves that the pods reach each other and that the node reaches them.
func talk(t *testing.T, n *node.Node, a, b *library.Pod) {
	t.Helper()
	require.Len(t, a.IPs, 2)
	for i := range a.IPs {
		reach(t, a.NS, b.IPs[i])
		reach(t, b.NS, a.IPs[i])
		reach(t, n.Net, a.IPs[i])
	}
}

func atLeast(t *testing.T, v, least string) bool {
	t.Helper()
	ok, err := version.GreaterThanOrEqualTo(v, least)
	require.NoError(t, err)
	return ok
}

var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestLibcniDrivesEveryCNIVersion(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			l := library.New(t, ours(t), conflistOf(object{"cniVersion": v, "name": "pods"}))
			a, b := l.Pod("a"), l.Pod("b")
			clean := l.Settled()
			a.Add()
			alone := l.Trace(t)
			b.Add()
			talk(t, l.Node, a, b)
			if atLeast(t, v, "0.4.0") {
				require.NoError(t, a.Check())
				require.NoError(t, b.Check())
			}
			if atLeast(t, v, "1.1.0") {
				require.NoError(t, l.Status())
			}
			// libcni collects by DEL what it knows, and by GC what only the plugins know, from 1.1.0 on.
			require.NoError(t, l.GC(a))
			require.Equal(t, alone, l.Trace(t))
			b.Add()
			b.Del()
			b.Del()
			require.Equal(t, alone, l.Trace(t))
			a.Del()
			require.Equal(t, clean, l.Trace(t))
		})
	}
}

func TestLibcniChoosesTheHighestVersionOfAConflistThatWeShip(t *testing.T) {
	t.Parallel()
	l := library.New(t, ours(t), conflist("pods"))
	require.Equal(t, "1.1.0", l.List.CNIVersion)
	p := l.Pod("a")
	res := p.Add()
	require.Equal(t, 1500, res.Interfaces[2].Mtu)
	require.NoError(t, l.Status())
	require.NoError(t, l.GC(p))
	require.NoError(t, p.Check())
}

func TestGCThroughLibcniRemovesWhatTheRuntimeForgot(t *testing.T) {
	t.Parallel()
	l := library.New(t, ours(t), conflist("pods"))
	kept, lost := l.Pod("kept"), l.Pod("lost")
	l.Settled()
	kept.Add()
	before := l.Trace(t)
	lost.Add()
	require.NoError(t, l.Do(func() error { return os.Remove("/var/lib/cni/results/pods-lost-eth0") }))
	require.NoError(t, l.GC(kept))
	require.Equal(t, before, l.Trace(t))
	require.NoError(t, kept.Check())
}

// chain is what stands behind the bridge plugin in many clusters.
func chain() []object {
	return []object{
		{"type": "tuning", "mtu": 1400, "promisc": true, "sysctl": object{"net.ipv4.conf.IFNAME.log_martians": "1"},
			"capabilities": object{"mac": true}},
		{"type": "portmap", "capabilities": object{"portMappings": true}},
		{"type": "firewall", "backend": "iptables"},
	}
}

func TestCHECKPassesAndNothingIsLeftInAChainWithTheReferencesPlugins(t *testing.T) {
	t.Parallel()
	dir := with(t, "tuning", "portmap", "firewall")
	for _, v := range versions {
		if !atLeast(t, v, "0.4.0") { // the reference's firewall takes no less
			continue
		}
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			l := library.New(t, dir, conflistOf(object{"cniVersion": v, "name": "pods"}, chain()...))
			l.Caps = object{"mac": "02:11:22:33:44:55", "portMappings": []object{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
			outside := withOutside(t, l.Node)
			a, b := l.Pod("a"), l.Pod("b")
			b.RT.CapabilityArgs = nil
			clean := l.Settled()
			res := a.Add()
			require.Equal(t, "02:11:22:33:44:55", podEnd(t, res).Mac)
			require.NoError(t, a.Check())
			b.Add()
			talk(t, l.Node, a, b)
			for i, at := range []string{node4, node6} {
				nstest.Serve(t, a.NS, netip.AddrPortFrom(a.IPs[i], 80))
				require.NoError(t, nstest.Stream(t.Context(), outside, netip.AddrPortFrom(netip.MustParseAddr(at), 8080), 100_000))
			}
			require.NoError(t, a.Check())
			require.NoError(t, b.Check())
			require.NoError(t, l.GC(a, b))
			require.NoError(t, a.Check())
			b.Del()
			a.Del()
			require.Equal(t, clean, l.Trace(t))
		})
	}
}

func podEnd(t *testing.T, res *current.Result) *current.Interface {
	t.Helper()
	for _, i := range res.Interfaces {
		if i.Sandbox != "" {
			return i
		}
	}
	require.Fail(t, "no interface of the pod", "%v", res)
	return nil
}
