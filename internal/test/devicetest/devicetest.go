//go:build linux

// Package devicetest has the node on which plugins are tested whose interface is in the container alone, and the stories that
// are the same of all of them.
package devicetest

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

// World is a node with a device, uplink, that leads to another machine, wire, with 10.7.0.1 and fd00:7::1. The node has an
// interface named eth0 too.
type World struct {
	T          *testing.T
	Node, Wire *netns.NS
	Plugin     cni.Plugin
	Name       string // of the plugin
	Path       string // CNI_PATH
	dir        string
}

// New makes one.
func New(t *testing.T, name string, plugin cni.Plugin, features ...nstest.Feature) *World {
	t.Helper()
	nstest.Need(t, features...)
	w := &World{T: t, Node: nstest.New(t), Wire: nstest.New(t), Plugin: plugin, Name: name, Path: "/nowhere", dir: t.TempDir()}
	Uplink(t, w.Node, w.Wire)
	return w
}

// Uplink gives a node its devices.
func Uplink(t testing.TB, node, wire *netns.NS) {
	t.Helper()
	nstest.Link(t, nstest.End{NS: node, Name: "uplink"}, nstest.End{NS: wire, Name: "wire", Addrs: []string{"10.7.0.1/24", "fd00:7::1/64"}})
	nstest.Link(t, nstest.End{NS: node, Name: "eth0"}, nstest.End{NS: nstest.New(t), Name: "other"})
	nstest.Settle(t, node)
	nstest.Settle(t, wire)
}

// Conf is a netconf with both families and the keys of a JSON object.
func (w *World) Conf(keys string) string { return w.conf(keys, true) }

// Bare is a netconf without an IPAM plugin.
func (w *World) Bare(keys string) string { return w.conf(keys, false) }

func (w *World) conf(keys string, ipam bool) string {
	w.T.Helper()
	all := map[string]any{}
	require.NoError(w.T, json.Unmarshal([]byte("{"+keys+"}"), &all))
	conf := map[string]any{"cniVersion": "1.1.0", "name": "net", "type": w.Name}
	if ipam {
		conf["ipam"] = map[string]any{"type": "host-local", "dataDir": w.dir, "routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			"ranges": []any{[]any{map[string]any{"subnet": "10.7.0.0/24"}}, []any{map[string]any{"subnet": "fd00:7::/64"}}}}
	}
	maps.Copy(conf, all)
	b, err := json.Marshal(conf)
	require.NoError(w.T, err)
	return string(b)
}

// Do answers a request.
func (w *World) Do(q cnitest.Request) cnitest.Answer {
	w.T.Helper()
	q.Path = w.Path
	a, err := q.Run(w.T.Context(), w.Node, w.Plugin, cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(w.T, err)
	return a
}

// Call calls a verb with the result of an ADD, if there is one.
func (w *World) Call(verb cni.Verb, id string, pod *netns.NS, conf string, prev ...byte) cnitest.Answer {
	w.T.Helper()
	return w.Do(cnitest.Request{Verb: verb, ContainerID: id, Pod: pod, Config: conf, Prev: prev})
}

// Add attaches a new container.
func (w *World) Add(id, conf string) (pod *netns.NS, res *cni.Result, out []byte) {
	w.T.Helper()
	pod = nstest.New(w.T)
	a := w.Call(cni.ADD, id, pod, conf)
	require.Zero(w.T, a.Status, "%s", a.Out)
	res, err := cni.ParseResult(a.Out)
	require.NoError(w.T, err)
	return pod, res, a.Out
}

// OK calls a verb that is to succeed.
func (w *World) OK(verb cni.Verb, id string, pod *netns.NS, conf string, prev ...byte) {
	w.T.Helper()
	a := w.Call(verb, id, pod, conf, prev...)
	require.Zero(w.T, a.Status, "%s %s: %s", verb, id, a.Out)
}

// Refused calls a verb that is to fail with a code and words, and sees that nothing changed.
func (w *World) Refused(verb cni.Verb, pod *netns.NS, conf string, code cni.Code, says string, prev ...byte) {
	w.T.Helper()
	look := func() string { return nstest.Dump(w.Node) + nstest.Dump(pod) }
	before, held := look(), w.Leases()
	a := w.Call(verb, "refused", pod, conf, prev...)
	require.Equal(w.T, 1, a.Status, "%s", a.Out)
	var e cni.Error
	require.NoError(w.T, json.Unmarshal(a.Out, &e))
	require.Contains(w.T, e.Msg, says)
	require.Equal(w.T, code, e.Code, e.Msg)
	require.Equal(w.T, before, look(), conf)
	require.Equal(w.T, held, w.Leases())
}

// Leases are the addresses that are leased.
func (w *World) Leases() []string {
	w.T.Helper()
	all, err := filepath.Glob(filepath.Join(w.dir, "net", "[0-9f]*"))
	require.NoError(w.T, err)
	return all
}

// Reach sends a packet there and awaits the answer.
func (w *World) Reach(from *netns.NS, to ...netip.Addr) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(w.T.Context(), 10*time.Second)
	defer cancel()
	for _, a := range to {
		require.NoError(w.T, nstest.Ping(ctx, from, a, ping.Options{}), "ping %s", a)
	}
}

// Addrs are the addresses of a result.
func Addrs(res *cni.Result) (all []netip.Addr) {
	for _, ip := range res.IPs {
		all = append(all, ip.Address.Addr())
	}
	return all
}

// Live tells that an attachment is checked, is not made twice, and goes without a trace however DEL comes: with nothing but its
// IDs, twice, or once its container is gone, whose lease GC takes back too.
func (w *World) Live(conf string) {
	w.T.Helper()
	before := nstest.Dump(w.Node)
	empty := nstest.Dump(nstest.New(w.T))
	a, _, check := w.Add("a", conf)
	w.OK(cni.CHECK, "a", a, conf, check...)
	require.Equal(w.T, 1, w.Call(cni.ADD, "a", a, conf).Status, "the same attachment once more")
	w.OK(cni.CHECK, "a", a, conf, check...)
	require.Equal(w.T, 1, w.Call(cni.ADD, "b", a, conf).Status, "the name is taken")
	w.OK(cni.DEL, "b", a, conf)
	w.OK(cni.CHECK, "a", a, conf, check...)
	w.OK(cni.DEL, "a", a, conf)
	w.OK(cni.DEL, "a", a, conf)
	require.Equal(w.T, empty, nstest.Dump(a))
	b, _, _ := w.Add("b", conf)
	w.OK(cni.DEL, "b", nil, conf)
	require.Empty(w.T, w.Leases())
	w.OK(cni.DEL, "b", b, conf)
	c, _, check := w.Add("c", conf)
	other := strings.Replace(conf, `"vlanId":5`, `"vlanId":6`, 1)
	d, _, _ := w.Add("d", other)
	gc := w.Do(cnitest.Request{Verb: cni.GC, Config: conf, Valid: []cni.Attachment{{ContainerID: "c", IfName: "eth0"}}})
	require.Zero(w.T, gc.Status, "%s", gc.Out)
	w.OK(cni.CHECK, "c", c, conf, check...)
	w.OK(cni.DEL, "d", d, other)
	w.OK(cni.STATUS, "", nil, conf)
	w.OK(cni.DEL, "c", c, conf, check...)
	require.Empty(w.T, w.Leases())
	require.Equal(w.T, before, nstest.Dump(w.Node))
}

// ChangeOver tells that what the reference's plugin of the name attached is checked and deleted by ours without a trace, also
// without prevResult, and the other way round.
func (w *World) ChangeOver(conf string) {
	w.T.Helper()
	dir, err := reference.Build(w.Name, "host-local")
	require.NoError(w.T, err)
	ours, theirs := w.Plugin, cni.Exec(filepath.Join(dir, w.Name))
	before, empty := nstest.Dump(w.Node), nstest.Dump(nstest.New(w.T))
	turn := func(p cni.Plugin, path string) { w.Plugin, w.Path = p, path }
	for _, prev := range []bool{true, false} {
		turn(theirs, dir)
		pod, _, check := w.Add("a", conf)
		turn(ours, "/nowhere")
		w.OK(cni.CHECK, "a", pod, conf, check...)
		if !prev {
			check = nil
		}
		w.OK(cni.DEL, "a", pod, conf, check...)
		require.Equal(w.T, empty, nstest.Dump(pod))
	}
	pod, _, check := w.Add("b", conf)
	turn(theirs, dir)
	w.OK(cni.CHECK, "b", pod, conf, check...)
	w.OK(cni.DEL, "b", pod, conf, check...)
	turn(ours, "/nowhere")
	require.Equal(w.T, empty, nstest.Dump(pod))
	require.Empty(w.T, w.Leases())
	require.Equal(w.T, before, nstest.Dump(w.Node))
}
