package bandwidth_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bandwidth"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/shape"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const mbit = 1_000_000

// lab is a node with a bridge.
type lab struct {
	t       *testing.T
	node    *netns.NS
	first   string // the netconf of the bridge
	plugins map[string]cni.Plugin
	path    string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	nstest.Need(t, nstest.Shaping, nstest.Bridge)
	return &lab{t: t, node: nstest.New(t), plugins: map[string]cni.Plugin{"bridge": bridge.Plugin{}, "bandwidth": bandwidth.Plugin},
		first: `{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": true,
			"ipam": {"type": "host-local", "subnet": "10.7.0.0/24", "dataDir": "` + filepath.Join(t.TempDir(), "leases") + `"}}`}
}

func conf(keys string) string {
	return `{"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", ` + keys + `}`
}

func (w *lab) call(plugin string, q cnitest.Request) cnitest.Answer {
	w.t.Helper()
	q.Path = w.path
	a, err := q.Run(w.t.Context(), w.node, w.plugins[plugin], cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(w.t, err)
	return a
}

// pod is one with its address and both requests that made it.
type pod struct {
	ns   *netns.NS
	addr netip.Addr
	last cnitest.Request
}

// attach runs the chain.
func (w *lab) attach(id, keys string) pod {
	w.t.Helper()
	p := w.attachFirst(id)
	p.last.Config = conf(keys)
	a := w.call("bandwidth", p.last)
	require.Zero(w.t, a.Status, "%s", a)
	p.last.Prev = a.Out
	return p
}

func (w *lab) attachFirst(id string) pod {
	w.t.Helper()
	p := pod{ns: nstest.New(w.t)}
	p.last = cnitest.Request{ContainerID: id, Pod: p.ns, Config: w.first}
	a := w.call("bridge", p.last)
	require.Zero(w.t, a.Status, "%s", a)
	res, err := cni.ParseResult(a.Out)
	require.NoError(w.t, err)
	p.addr, p.last.Prev = res.IPs[0].Address.Addr(), a.Out
	return p
}

func (w *lab) status(verb cni.Verb, p pod) int {
	w.t.Helper()
	p.last.Verb = verb
	return w.call("bandwidth", p.last).Status
}

// state is what the node holds.
func (w *lab) state() string {
	w.t.Helper()
	return nstest.Dump(w.node) + nstest.Run(w.t, w.node, "tc", "qdisc", "show") + nstest.Run(w.t, w.node, "tc", "filter", "show")
}

func (w *lab) helpers() int {
	w.t.Helper()
	list, err := link.List(w.t.Context(), w.node, "ifb")
	require.NoError(w.t, err)
	return len(list)
}

func TestTwoPodsOfOneNodeKeepToTheRatesOfEach(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	a := w.attach("a", `"ingressRate": 4000000, "ingressBurst": 200000, "egressRate": 8000000, "egressBurst": 200000`)
	free := w.attach("b", `"capabilities": {"bandwidth": true}`)
	res, err := cni.ParseResult(a.last.Prev)
	require.NoError(t, err)
	helper := res.Interfaces[len(res.Interfaces)-1]
	require.True(t, strings.HasPrefix(helper.Name, "bwp") && helper.Sandbox == "")
	for _, p := range []pod{a, free} {
		require.Zero(t, w.status(cni.CHECK, p))
	}
	for _, way := range []struct {
		from, to pod
		rate     float64
	}{{a, free, 8 * mbit}, {free, a, 4 * mbit}} {
		got := nstest.Rate(t, way.from.ns, way.to.ns, way.to.addr, int(way.rate/4))
		require.Less(t, got, 1.1*way.rate)
		require.Greater(t, got, way.rate/4)
	}
	nstest.Run(t, w.node, "tc", "qdisc", "del", "dev", helper.Name, "root")
	require.NotZero(t, w.status(cni.CHECK, a))
}

func TestDELNeedsNothingAndGivesTheWholeRateBack(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	p := w.attachFirst("a")
	nstest.Settle(t, w.node)
	before := w.state()
	p.last.Config = conf(`"egressRate": 2000000, "egressBurst": 100000, "ingressRate": 1000000, "ingressBurst": 100000`)
	require.Zero(t, w.status(cni.ADD, p))
	require.NotEqual(t, before, w.state())
	bare := pod{last: cnitest.Request{ContainerID: "a", Config: conf(`"egressRate": "broken"`)}}
	for range 2 {
		require.Zero(t, w.status(cni.DEL, bare))
		require.Equal(t, before, w.state())
	}
	require.Greater(t, nstest.Rate(t, p.ns, w.node, netip.MustParseAddr("10.7.0.1"), mbit), 20.0*mbit)
}

func TestGCTakesTheRatesOfPodsThatAreGoneAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	const keys = `"egressRate": 2000000, "egressBurst": 100000`
	a, b := w.attach("a", keys), w.attach("b", keys)
	require.Equal(t, 2, w.helpers())
	gc := cnitest.Request{Verb: cni.GC, Config: conf(keys), Valid: []cni.Attachment{{ContainerID: "b", IfName: "eth0"}}}
	require.Zero(t, w.call("bandwidth", gc).Status)
	require.NotZero(t, w.status(cni.CHECK, a))
	require.Zero(t, w.status(cni.CHECK, b))
	gc.Valid = []cni.Attachment{}
	require.Zero(t, w.call("bandwidth", gc).Status)
	require.Zero(t, w.helpers())
	require.Zero(t, w.call("bandwidth", cnitest.Request{Verb: cni.STATUS, Config: conf(keys)}).Status)
}

func TestTheBurstThatContainerdAlwaysSendsIsNotGiven(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	p := w.attach("a", `"capabilities": {"bandwidth": true}, "runtimeConfig": {"bandwidth": {"IngressRate": 10000000, "IngressBurst": 4294967295, "EgressRate": 0, "EgressBurst": 0}}`)
	require.Zero(t, w.helpers())
	end := link.HostName("net", "a", "eth0")
	l, err := shape.Get(t.Context(), w.node, end)
	require.NoError(t, err)
	require.EqualValues(t, 10*mbit, l.Out.Rate)
	require.Less(t, l.Out.Burst, uint64(100_000))
	require.Less(t, nstest.Rate(t, w.node, p.ns, p.addr, 2*mbit), 11.0*mbit)

	own := w.attach("b", `"ingressRate": 0, "runtimeConfig": {"bandwidth": {"ingressRate": 10000000, "ingressBurst": 4294967295}}`)
	l, err = shape.Get(t.Context(), w.node, link.HostName("net", own.last.ContainerID, "eth0"))
	require.NoError(t, err)
	require.Zero(t, l, "a key of the netconf itself stands before the runtime's")
}

func TestWhatCannotWorkIsAnErrorThatNamesKeyValueAndRemedyBeforeAnyChange(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	p := w.attachFirst("a")
	nstest.Settle(t, w.node)
	before := w.state()
	for keys, want := range map[string][]string{
		`"ingressRate": 1000000`:                               {"if rate is set, burst must also be set", `"ingressRate\" (bit/s)`, "1000000", "4294967295"},
		`"egressBurst": 1000000`:                               {"if burst is set, rate must also be set", `"egressBurst\" (bit)`, "1000000"},
		`"egressRate": 1000000, "egressBurst": 99999999999999`: {"burst cannot be more than 4GB", "99999999999999"},
		`"runtimeConfig": {"bandwidth": {"ingressRate": 1000000, "ingressBurst": 12000}}`:          {"runtimeConfig.bandwidth.ingressBurst", "12112 bit"},
		`"ingressRate": 3, "ingressBurst": 100000`:                                                 {"ingressRate", "want 8 to"},
		`"egressRate": "10M", "egressBurst": 100000`:                                               {"egressRate", "whole number"},
		`"egressRate": -1, "egressBurst": 100000`:                                                  {"egressRate"},
		`"egressRate": 10000000, "egressBurst": 100000, "ingressRate": 10000, "ingressBurst": 800`: {"ingressBurst", "12112 bit"},
	} {
		p.last.Config = conf(keys)
		a := w.call("bandwidth", p.last)
		require.Equal(t, 1, a.Status, keys)
		require.Contains(t, string(a.Out), `"code":7`)
		for _, s := range want {
			require.Contains(t, string(a.Out), s, keys)
		}
		require.Equal(t, before, w.state())
		require.Zero(t, w.status(cni.DEL, p))
	}
	p.last.Config = conf(`"ingressRate": 10000, "ingressBurst": 20000`)
	a := w.call("bandwidth", p.last)
	require.Zero(t, a.Status)
	require.Contains(t, a.Err, "a full packet takes 1.2 seconds; 10 Mbit/s are 10000000")
	p.last.Config, p.last.IfName = conf(`"ingressRate": 100000, "ingressBurst": 20000`), "lo"
	a = w.call("bandwidth", p.last)
	require.Contains(t, string(a.Out), "state bandwidth after a plugin that makes a veth pair")
}

// executed is a plugin of the reference.
type executed struct{ path string }

func (p executed) file() cni.Plugin { return cni.Exec(p.path) }

func (p executed) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	return p.file().Add(ctx, r)
}
func (p executed) Del(ctx context.Context, r *cni.Request) error    { return p.file().Del(ctx, r) }
func (p executed) Check(ctx context.Context, r *cni.Request) error  { return p.file().Check(ctx, r) }
func (p executed) Status(ctx context.Context, r *cni.Request) error { return p.file().Status(ctx, r) }
func (p executed) GC(context.Context, *cni.Request) error           { return errors.ErrUnsupported }

func TestWhatTheReferenceLimitsIsCheckedAndDeletedWithoutATraceAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	dir, err := reference.Build("bandwidth", "bridge", "host-local")
	require.NoError(t, err)
	ours := w.plugins
	theirs := map[string]cni.Plugin{"bridge": executed{filepath.Join(dir, "bridge")}, "bandwidth": executed{filepath.Join(dir, "bandwidth")}}
	w.attachFirst("first") // the bridge stays
	for _, keys := range []string{
		`"ingressRate": 10000000, "ingressBurst": 400000, "egressRate": 123456789, "egressBurst": 9999992`,
		`"runtimeConfig": {"bandwidth": {"egressRate": 10000000, "egressBurst": 4294967295}}`,
		`"ingressRate": 8000, "ingressBurst": 80, "egressRate": 3000000000, "egressBurst": 800000000`,
	} {
		for _, makers := range []map[string]cni.Plugin{theirs, {"bridge": ours["bridge"], "bandwidth": theirs["bandwidth"]}} {
			w.path, w.plugins = dir, makers
			p := w.attachFirst("a")
			nstest.Settle(t, w.node)
			before := w.state()
			p.last.Config = conf(keys)
			a := w.call("bandwidth", p.last)
			require.Zero(t, a.Status, "%s", a)
			p.last.Prev = a.Out
			w.plugins = ours
			p.last.Verb = cni.CHECK
			a = w.call("bandwidth", p.last)
			require.Zero(t, a.Status, "%s %s", keys, a)
			require.Zero(t, w.status(cni.DEL, p))
			require.Equal(t, before, w.state())
			w.plugins = makers
			p.last.Config = w.first
			p.last.Verb = cni.DEL
			require.Zero(t, w.call("bridge", p.last).Status)
			w.path = ""
		}
	}
	w.plugins = ours
	p := w.attach("b", `"egressRate": 10000000, "egressBurst": 400000`)
	w.path, w.plugins = dir, theirs
	require.Zero(t, w.status(cni.DEL, p))
	require.Zero(t, w.helpers())
}
