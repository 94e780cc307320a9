package overlay_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

// agent writes the node file as the node agent does.
func (m *machine) agent(blocked string, ranges ...string) {
	f := node.File{Self: peer.Peer{Name: m.name, Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.11")}}}, MTU: 1432, Agent: true, Blocked: blocked,
		Network: peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}}
	for _, r := range ranges {
		f.Self.Pods = append(f.Self.Pods, netip.MustParsePrefix(r))
	}
	require.NoError(m.w.t, node.Write(m.ns, filepath.Join(m.w.dir, m.name, "run", "pods", "node.json"), f))
}

func TestWithTheNodeAgentPodsAreAttachedOnceItHasApplied(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := newWorld(t, 1)
	m := w.machines[0]
	conf := m.conf(map[string]any{"peersFile": nil})
	p := m.pod("c1")
	require.Equal(t, cni.ErrNotAvailable, p.refused(cni.STATUS, conf, "node agent has not written .*start 'cniblocks agent'"))
	require.Equal(t, cni.ErrTryAgain, p.refused(cni.ADD, conf, "start 'cniblocks agent'"))

	m.agent("", "10.244.1.0/24", "fd00:10:244:1::/64")
	p.must(cni.STATUS, conf)
	res := p.add(conf)
	require.Equal(t, "10.244.1.2/24", res.IPs[0].Address.String())
	p.check(conf)

	m.agent("the ranges are another's", "10.244.1.0/24", "fd00:10:244:1::/64")
	q := m.pod("c2")
	require.Equal(t, cni.ErrNotAvailable, q.refused(cni.STATUS, conf, "attaches no pods now: the ranges are another's"))
	q.refused(cni.ADD, conf, "the ranges are another's")
	p.check(conf)

	m.agent("", "10.244.9.0/24", "fd00:10:244:9::/64")
	res = q.add(conf)
	require.Equal(t, "10.244.9.2/24", res.IPs[0].Address.String())
	q.check(conf)
	for _, from := range []*pod{p, q} { // old pods go on, and the new ones reach them
		reach(t, from.ns, netip.MustParseAddr("192.0.2.11"))
		for _, to := range []string{"10.244.1.2", "10.244.9.2", "fd00:10:244:1::2", "fd00:10:244:9::2"} {
			reach(t, from.ns, netip.MustParseAddr(to))
		}
		reach(t, from.ns, netip.MustParseAddr("192.0.2.99"))
	}
	m.agent("again", "10.244.9.0/24")
	p.must(cni.DEL, conf)
	q.must(cni.DEL, conf)
}
