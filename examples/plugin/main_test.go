package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
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

// world is a node and what a runtime keeps.
type world struct {
	t    *testing.T
	node *netns.NS
	dir  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t, nstest.New(t), t.TempDir()}
}

// conf is a dual-stack network; more are keys and values besides, as JSON.
func (w *world) conf(more ...string) string {
	return `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "host-local", "dataDir": "` + w.dir +
		`", "ranges": [[{"subnet": "10.7.0.0/29"}], [{"subnet": "fd00:7::/64"}]]}` + strings.Join(append([]string{""}, more...), ", ") + `}`
}

func (w *world) call(verb cni.Verb, id string, pod *netns.NS, conf string) (status int, out string) {
	w.t.Helper()
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": id, "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
	if pod != nil {
		env["CNI_NETNS"] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	}
	var stdout, stderr bytes.Buffer
	require.NoError(w.t, w.node.Do(func() error {
		status = cni.Run(w.t.Context(), routed{}, cni.Delegates{"host-local": hostlocal.Plugin{}}, func(k string) string { return env[k] },
			strings.NewReader(conf), &stdout, &stderr)
		return nil
	}))
	return status, stdout.String()
}

func (w *world) add(id string, pod *netns.NS) (*cni.Result, string) {
	w.t.Helper()
	status, out := w.call(cni.ADD, id, pod, w.conf())
	require.Zero(w.t, status, out)
	res, err := cni.ParseResult([]byte(out))
	require.NoError(w.t, err)
	return res, out
}

func (w *world) leases() int {
	w.t.Helper()
	entries, err := filepath.Glob(filepath.Join(w.dir, "net", "*"))
	require.NoError(w.t, err)
	n := 0
	for _, e := range entries {
		if _, err := netip.ParseAddr(filepath.Base(e)); err == nil {
			n++
		}
	}
	return n
}

func (w *world) reach(from *netns.NS, to netip.Addr) {
	w.t.Helper()
	require.NoError(w.t, nstest.Ping(w.t.Context(), from, to, ping.Options{}), "ping %s", to)
}

func TestPodsReachTheNodeAndEachOtherAndLeaveNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := nstest.New(t)
	w.add("first", first)
	status, out := w.call(cni.DEL, "first", first, w.conf())
	require.Zero(t, status, out)
	before := nstest.Dump(w.node)

	a, b := nstest.New(t), nstest.New(t)
	ra, prevA := w.add("a", a)
	rb, _ := w.add("b", b)
	for i := range ra.IPs {
		require.Equal(t, ra.IPs[i].Address.Addr().BitLen(), ra.IPs[i].Address.Bits())
		w.reach(a, rb.IPs[i].Address.Addr())
		w.reach(b, ra.IPs[i].Address.Addr())
		w.reach(w.node, ra.IPs[i].Address.Addr())
	}
	status, out = w.call(cni.CHECK, "a", a, w.conf(`"prevResult": `+prevA))
	require.Zero(t, status, out)
	status, out = w.call(cni.STATUS, "", nil, w.conf())
	require.Zero(t, status, out)
	for _, id := range []string{"a", "b", "a", "never"} {
		status, out = w.call(cni.DEL, id, nil, w.conf())
		require.Zero(t, status, out)
	}
	require.Equal(t, before, nstest.Dump(w.node))
	require.Zero(t, w.leases())
}

func TestWhatTheNodeBecomesIsInTheTable(t *testing.T) {
	t.Parallel()
	cnitest.Table{Plugin: routed{}}.Run(t, filepath.Join("testdata", "node.txt"))
}

func TestASecondADDFailsAndHarmsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := nstest.New(t)
	res, prev := w.add("a", a)
	status, out := w.call(cni.ADD, "a", a, w.conf())
	require.Equal(t, 1, status)
	require.Contains(t, out, "the node has it already")
	status, out = w.call(cni.CHECK, "a", a, w.conf(`"prevResult": `+prev))
	require.Zero(t, status, out)
	w.reach(w.node, res.IPs[0].Address.Addr())
}

func TestAnADDThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := nstest.Dump(w.node)
	for says, conf := range map[string]string{
		`key \"ipam\" is missing`:      `{"cniVersion": "1.1.0", "name": "net", "type": "routed"}`,
		"neither linked in nor in":     `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "nowhere"}}`,
		"192.0.2.1":                    w.conf(`"args": {"cni": {"ips": ["192.0.2.1"]}}`),
		"host-local wants one of them": `{"cniVersion": "1.1.0", "name": "net", "type": "routed", "ipam": {"type": "host-local"}}`,
	} {
		status, out := w.call(cni.ADD, "a", nstest.New(t), conf)
		require.Equal(t, 1, status)
		require.Contains(t, out, says)
	}
	status, out := w.call(cni.ADD, "a", w.node, w.conf())
	require.Equal(t, 1, status)
	require.Contains(t, out, "the node's own network namespace")
	require.Equal(t, before, nstest.Dump(w.node))
	require.Zero(t, w.leases())
}

func TestCheckSeesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := nstest.New(t)
	_, prev := w.add("a", a)
	h := nstest.Netlink(t, a)
	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetDown(l)) // takes the routes with it
	status, out := w.call(cni.CHECK, "a", a, w.conf(`"prevResult": `+prev))
	require.Equal(t, 1, status)
	for _, says := range []string{"eth0 is down", "the route to 0.0.0.0/0 via 169.254.1.1 on eth0"} {
		require.Contains(t, out, says)
	}
}

func TestGCRemovesWhatTheRuntimeForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kept, forgotten := nstest.New(t), nstest.New(t)
	res, prev := w.add("kept", kept)
	w.add("forgotten", forgotten)
	require.Equal(t, 4, w.leases())
	valid, err := json.Marshal([]cni.Attachment{{ContainerID: "kept", IfName: "eth0"}})
	require.NoError(t, err)
	status, out := w.call(cni.GC, "", nil, w.conf(`"cni.dev/valid-attachments": `+string(valid)))
	require.Zero(t, status, out)
	require.Equal(t, 2, w.leases())
	require.NotContains(t, nstest.Dump(w.node), "forgotten")
	status, out = w.call(cni.CHECK, "kept", kept, w.conf(`"prevResult": `+prev))
	require.Zero(t, status, out)
	w.reach(kept, res.IPs[0].Gateway)
}
