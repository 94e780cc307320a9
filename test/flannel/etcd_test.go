//go:build linux

package flannel_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

var networks = map[string]struct {
	config string
	mtu    int // that our agent tells; flannel forgets that IPv6 headers are longer
	needs  []nstest.Feature
}{
	"vxlan":             {`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`, 1450, []nstest.Feature{nstest.VXLAN}},
	"host-gw":           {`{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}`, 1500, nil},
	"vxlan, dual stack": {`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "vxlan"}}`, 1430, []nstest.Feature{nstest.VXLAN}},
}

func TestNodesWithFlanneldAndNodesWithOurAgentShareANetwork(t *testing.T) {
	t.Parallel()
	for name, c := range networks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, c.needs...)
			w := newWorld(t, c.config, "a", "b", "c")
			a, b, both := w.nodes["a"], w.nodes["b"], w.nodes["c"]
			a.byFlanneld()
			b.byAgent()
			both.byAgent()
			require.Len(t, w.leases(), 3)
			pods := []*pod{
				a.attach(w.theirs, "a1"),    // flannel alone
				a.attach(w.ours, "a2"),      // our plugin beside flanneld
				b.attach(w.ours, "b1"),      // ours alone
				both.attach(w.theirs, "c1"), // flannel's own plugin beside our agent
			}
			require.Equal(t, c.mtu, b.env().MTU)
			require.Equal(t, a.env().Networks, b.env().Networks)
			w.reachEachOther(pods...)
			w.reachOutside(pods...)
			pods[1].check(w.ours)
			pods[2].check(w.ours)
			for _, p := range pods[:3] {
				p.delete(w.ours)
			}
			pods[3].delete(w.theirs)
		})
	}
}

func TestANodeMovesFromFlanneldToOurAgentAndBackWithItsPodsRunning(t *testing.T) {
	t.Parallel()
	for name, c := range networks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, c.needs...)
			w := newWorld(t, c.config, "a", "b")
			a, b := w.nodes["a"], w.nodes["b"]
			a.byFlanneld()
			b.byFlanneld()
			old, far := a.attach(w.theirs, "old"), b.attach(w.theirs, "far")
			w.reachEachOther(old, far)
			had, leases := a.env(), w.leases()

			stream := w.stream(far, old)
			a.stop()
			a.byAgent("--adopt-flannel")
			w.reachEachOther(old, far)
			t.Logf("to our agent: %s", stream())
			require.Equal(t, had.Subnets, a.env().Subnets, "the node keeps its range")
			require.Equal(t, leases, w.leases())
			young := a.attach(w.ours, "young")
			w.reachEachOther(old, young, far)
			w.reachOutside(old, young)
			old.check(w.ours)
			require.NotContains(t, nstest.Dump(a.ns), "FLANNEL")
			gone := a.attach(w.theirs, "gone")
			gone.delete(w.ours)

			stream = w.stream(far, old)
			a.stop()
			a.byFlanneld()
			w.reachEachOther(old, young, far)
			t.Logf("back to flanneld: %s", stream())
			stream = w.stream(far, old)
			a.wayBack()
			w.reachEachOther(old, young, far)
			t.Logf("after the way back was cleaned up: %s", stream())
			require.Equal(t, had.Subnets, a.env().Subnets, "and on the way back")
			require.Equal(t, leases, w.leases())
			w.reachOutside(old, young)
			left := nstest.Dump(a.ns)
			if name != "host-gw" { // there flanneld takes our routes for its own
				require.NotContains(t, left, "proto 117")
			}
			require.NotContains(t, left, "table inet cniblocks")
			require.NotContains(t, left, `alias "cniblocks/cbr0"`)
			young.delete(w.theirs)
			old.delete(w.theirs)
			far.delete(w.theirs)
		})
	}
}
