package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/spoof"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestItGuardsThePortsOfTheBridgePluginAndLeavesNothing(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFTBridge)
	node := nstest.New(t)
	delegates := cni.Delegates{"host-local": hostlocal.Plugin{}}
	first := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.7.0.0/24", "dataDir": %q}}`,
		filepath.Join(t.TempDir(), "leases"))
	const second = `{"cniVersion": "1.1.0", "name": "net", "type": "chained"}`
	run := func(q cnitest.Request) cnitest.Answer {
		t.Helper()
		p := cni.Plugin(plugin)
		if q.Config == first {
			p = bridge.Plugin{}
		}
		a, err := q.Run(t.Context(), node, p, delegates)
		require.NoError(t, err)
		return a
	}
	guarded := func() int {
		t.Helper()
		ports, err := spoof.List(t.Context(), node)
		require.NoError(t, err)
		return len(ports)
	}
	var pods []*netns.NS
	var results [][]byte
	for i := range 3 {
		pod := nstest.New(t)
		q := cnitest.Request{ContainerID: fmt.Sprint("c", i), Pod: pod, Config: first}
		q.Prev = run(q).Out
		q.Config = second
		a := run(q)
		require.Zero(t, a.Status, "%s", a.Out)
		require.JSONEq(t, string(q.Prev), string(a.Out))
		q.Verb = cni.CHECK
		require.Zero(t, run(q).Status)
		pods, results = append(pods, pod), append(results, q.Prev)
	}
	require.Equal(t, 3, guarded())
	require.Zero(t, run(cnitest.Request{Verb: cni.DEL, ContainerID: "c0", Config: second}).Status, "without namespace and prevResult")
	require.Equal(t, 2, guarded())
	a := run(cnitest.Request{Verb: cni.CHECK, ContainerID: "c0", Pod: pods[0], Config: second, Prev: results[0]})
	require.Equal(t, 1, a.Status)
	require.Zero(t, run(cnitest.Request{Verb: cni.GC, Config: second, Valid: []cni.Attachment{{ContainerID: "c2", IfName: "eth0"}}}).Status)
	require.Equal(t, 1, guarded())
	a = run(cnitest.Request{ContainerID: "c9", Pod: pods[1], Config: second, Prev: []byte(`{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}]}`)})
	require.Equal(t, 1, a.Status)
	require.Contains(t, string(a.Out), `has no eth0 with a port before it`)
	require.Zero(t, run(cnitest.Request{Verb: cni.GC, Config: second, Valid: []cni.Attachment{}}).Status)
	require.Zero(t, guarded())
}
