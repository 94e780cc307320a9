package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// network is a node with one network, and the directory of its leases.
type network struct {
	t    *testing.T
	node *netns.NS
	dir  string
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	return &network{t, nstest.New(t), t.TempDir()}
}

// conf is a dual-stack network; more are keys and values besides, as JSON.
func (n *network) conf(more ...string) string {
	return `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "host-local", "dataDir": "` + n.dir +
		`", "ranges": [[{"subnet": "10.7.0.0/29"}], [{"subnet": "fd00:7::/64"}]]}` + strings.Join(append([]string{""}, more...), ", ") + `}`
}

func (n *network) call(verb cni.Verb, id string, pod *netns.NS, conf string) (status int, out string) {
	n.t.Helper()
	a, err := cnitest.Request{Verb: verb, Config: conf, ContainerID: id, Pod: pod}.Run(n.t.Context(), n.node, routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(n.t, err)
	return a.Status, string(a.Out)
}

func (n *network) add(id string, pod *netns.NS) (*cni.Result, string) {
	n.t.Helper()
	status, out := n.call(cni.ADD, id, pod, n.conf())
	require.Zero(n.t, status, out)
	res, err := cni.ParseResult([]byte(out))
	require.NoError(n.t, err)
	return res, out
}

func (n *network) leases() int {
	n.t.Helper()
	entries, err := filepath.Glob(filepath.Join(n.dir, "net", "*"))
	require.NoError(n.t, err)
	count := 0
	for _, e := range entries {
		if _, err := netip.ParseAddr(filepath.Base(e)); err == nil {
			count++
		}
	}
	return count
}

func (n *network) reach(from *netns.NS, to netip.Addr) {
	n.t.Helper()
	require.NoError(n.t, nstest.Ping(n.t.Context(), from, to, ping.Options{}), "ping %s", to)
}

func TestPodsReachTheNodeAndEachOtherAndLeaveNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	first := nstest.New(t)
	n.add("first", first)
	status, out := n.call(cni.DEL, "first", first, n.conf())
	require.Zero(t, status, out)
	before := nstest.Dump(n.node)

	a, b := nstest.New(t), nstest.New(t)
	ra, prevA := n.add("a", a)
	rb, _ := n.add("b", b)
	for i := range ra.IPs {
		require.Equal(t, ra.IPs[i].Address.Addr().BitLen(), ra.IPs[i].Address.Bits())
		n.reach(a, rb.IPs[i].Address.Addr())
		n.reach(b, ra.IPs[i].Address.Addr())
		n.reach(n.node, ra.IPs[i].Address.Addr())
	}
	status, out = n.call(cni.CHECK, "a", a, n.conf(`"prevResult": `+prevA))
	require.Zero(t, status, out)
	status, out = n.call(cni.STATUS, "", nil, n.conf())
	require.Zero(t, status, out)
	for _, id := range []string{"a", "b", "a", "never"} {
		status, out = n.call(cni.DEL, id, nil, n.conf())
		require.Zero(t, status, out)
	}
	require.Equal(t, before, nstest.Dump(n.node))
	require.Zero(t, n.leases())
}

func TestWhatTheNodeBecomesIsInTheTable(t *testing.T) {
	t.Parallel()
	cnitest.Table{Plugin: routed{}}.Run(t, filepath.Join("testdata", "node.txt"))
}

func TestASecondADDFailsAndHarmsNobody(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	a := nstest.New(t)
	res, prev := n.add("a", a)
	status, out := n.call(cni.ADD, "a", a, n.conf())
	require.Equal(t, 1, status)
	require.Contains(t, out, "the node has it already")
	status, out = n.call(cni.CHECK, "a", a, n.conf(`"prevResult": `+prev))
	require.Zero(t, status, out)
	n.reach(n.node, res.IPs[0].Address.Addr())
}

func TestAnADDThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	before := nstest.Dump(n.node)
	for says, conf := range map[string]string{
		`key \"ipam\" is missing`:      `{"cniVersion": "1.1.0", "name": "net", "type": "routed"}`,
		"neither linked in nor in":     `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "nowhere"}}`,
		"192.0.2.1":                    n.conf(`"args": {"cni": {"ips": ["192.0.2.1"]}}`),
		"host-local wants one of them": `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "host-local"}}`,
	} {
		status, out := n.call(cni.ADD, "a", nstest.New(t), conf)
		require.Equal(t, 1, status)
		require.Contains(t, out, says)
	}
	status, out := n.call(cni.ADD, "a", n.node, n.conf())
	require.Equal(t, 1, status)
	require.Contains(t, out, "the node's own network namespace")
	require.Equal(t, before, nstest.Dump(n.node))
	require.Zero(t, n.leases())
}

func TestCheckSeesWhatIsMissing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	a := nstest.New(t)
	_, prev := n.add("a", a)
	h := nstest.Netlink(t, a)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetDown(l)) // takes the routes with it
	status, out := n.call(cni.CHECK, "a", a, n.conf(`"prevResult": `+prev))
	require.Equal(t, 1, status)
	for _, says := range []string{" is down", "the route to 0.0.0.0/0 via 169.254.1.1 on eth0"} {
		require.Contains(t, out, says)
	}
}

func TestGCRemovesWhatTheRuntimeForgot(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	kept, forgotten := nstest.New(t), nstest.New(t)
	res, prev := n.add("kept", kept)
	n.add("forgotten", forgotten)
	require.Equal(t, 4, n.leases())
	gc := cnitest.Request{Verb: cni.GC, Config: n.conf(), Valid: []cni.Attachment{{ContainerID: "kept", IfName: "eth0"}}}
	answer, err := gc.Run(t.Context(), n.node, routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(t, err)
	require.Zero(t, answer.Status, answer)
	require.Equal(t, 2, n.leases())
	require.NotContains(t, nstest.Dump(n.node), "forgotten")
	status, out := n.call(cni.CHECK, "kept", kept, n.conf(`"prevResult": `+prev))
	require.Zero(t, status, out)
	n.reach(kept, res.IPs[0].Gateway)
}
