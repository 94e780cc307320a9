//go:build linux

// Package inventorytest gives tests a node with pods that the bridge plugin attached.
package inventorytest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

// World is a node with an uplink, and directories for what plugins keep.
type World struct {
	Node    *netns.NS
	Name    string // by which the node's namespace is pinned
	DataDir string // of leases
	RunDir  string // of state
	ConfDir string // of conflists

	t         *testing.T
	delegates cni.Delegates
	pods      map[string]*netns.NS // by container ID
	results   map[string]json.RawMessage
	before    string
	beforeDir []string
}

// New makes a node, and remembers what it is like without pods.
func New(t *testing.T) *World {
	t.Helper()
	w := &World{t: t, pods: map[string]*netns.NS{}, results: map[string]json.RawMessage{},
		delegates: cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}}}
	w.Name, w.Node = nstest.Named(t)
	dir := t.TempDir()
	w.DataDir, w.RunDir, w.ConfDir = filepath.Join(dir, "leases"), filepath.Join(dir, "run"), filepath.Join(dir, "conf")
	for _, d := range []string{w.DataDir, w.RunDir, w.ConfDir} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	lab.Node(t, w.Node, 1)
	nstest.AddRoute(t, w.Node, "default", "192.0.2.2")
	nstest.AddRoute(t, w.Node, "default", "2001:db8::2")
	// What the plugins switch on stays on, and so do the addresses that the kernel has for it.
	nstest.Forward(t, w.Node)
	nstest.Settle(t, w.Node)
	w.before, w.beforeDir = nstest.Dump(w.Node), w.files()
	return w
}

// Read takes the inventory.
func (w *World) Read() *inventory.Node {
	w.t.Helper()
	n, err := inventory.Read(w.t.Context(), w.Options())
	require.NoError(w.t, err)
	require.Empty(w.t, n.Unread)
	return n
}

// Options are those of an inventory of this node.
func (w *World) Options() inventory.Options {
	return inventory.Options{NS: w.Node, DataDirs: []string{w.DataDir}, ConfDir: w.ConfDir, StateDir: w.RunDir}
}

// Conf is a netconf of the bridge plugin for a network in 10.n.0.0/24 and fd00:n::/64, with more keys.
func (w *World) Conf(network string, n string, more map[string]any) string {
	c := map[string]any{"cniVersion": "1.1.0", "name": network, "type": "bridge", "bridge": "br-" + network, "isDefaultGateway": true,
		"ipMasq": true, "ipam": map[string]any{"type": "host-local", "dataDir": w.DataDir,
			"ranges": [][]map[string]any{{{"subnet": "10." + n + ".0.0/24"}}, {{"subnet": "fd00:" + n + "::/64"}}}}}
	for k, v := range more {
		c[k] = v
	}
	b, err := json.Marshal(c)
	require.NoError(w.t, err)
	return string(b)
}

// Add attaches a new pod, pinned, and returns the name of its namespace.
func (w *World) Add(conf, id string) (pin string, ns *netns.NS) {
	w.t.Helper()
	pin, ns = nstest.Named(w.t)
	w.pods[id] = ns
	w.results[id] = w.call(cnitest.Request{Config: conf, ContainerID: id, Pod: ns})
	return pin, ns
}

// AddUnseen attaches a pod whose namespace nobody can find by looking around.
func (w *World) AddUnseen(conf, id string) {
	w.t.Helper()
	w.pods[id] = nstest.New(w.t)
	w.results[id] = w.call(cnitest.Request{Config: conf, ContainerID: id, Pod: w.pods[id]})
}

// Check calls CHECK of a pod that was added.
func (w *World) Check(conf, id string) {
	w.t.Helper()
	w.call(cnitest.Request{Verb: cni.CHECK, Config: conf, ContainerID: id, Pod: w.pods[id], Prev: w.results[id]})
}

func (w *World) call(q cnitest.Request) []byte {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := q.Run(ctx, w.Node, bridge.Plugin{}, w.delegates)
	require.NoError(w.t, err)
	require.Zero(w.t, a.Status, "%s %s: %s %s", q.Verb, q.ContainerID, a.Out, a.Err)
	return a.Out
}

// RequireAsBefore fails if anything on the node is not as it was before the first pod.
func (w *World) RequireAsBefore() {
	w.t.Helper()
	require.Equal(w.t, w.before, nstest.Dump(w.Node))
	require.Equal(w.t, w.beforeDir, w.files())
}

func (w *World) files() (names []string) {
	for _, dir := range []string{w.DataDir, w.RunDir} {
		require.NoError(w.t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			names = append(names, path)
			return err
		}))
	}
	return names
}
