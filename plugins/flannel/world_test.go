package flannel_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/flannel"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var linked = cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}, "flannel": flannel.Plugin{}}

// world is a node of a flannel network, with an uplink to an outside that knows no way back to pods.
type world struct {
	t             *testing.T
	node, outside *netns.NS
	dir           string
	path          string // CNI_PATH
}

const (
	dualStack = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" +
		"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
	onlyIPv4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
)

func newWorld(t *testing.T, env string) *world {
	t.Helper()
	nstest.NeedRoot(t)
	w := &world{t: t, node: nstest.New(t), dir: t.TempDir()}
	w.path = filepath.Join(w.dir, "bin")
	w.outside = lab.Node(t, w.node, 1)
	nstest.Settle(t, w.node)
	w.env(env)
	return w
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// env replaces subnet.env; "" removes it.
func (w *world) env(contents string) {
	w.t.Helper()
	if contents == "" {
		require.NoError(w.t, os.RemoveAll(w.file("subnet.env")))
		return
	}
	require.NoError(w.t, os.WriteFile(w.file("subnet.env"), []byte(contents), 0o600))
}

// conf is a netconf with the given keys in place of the defaults.
func (w *world) conf(keys map[string]any) string {
	c := map[string]any{"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel",
		"subnetFile": w.file("subnet.env"), "dataDir": w.file("flannel"),
		"ipam":     map[string]any{"dataDir": w.file("leases")},
		"delegate": map[string]any{"isDefaultGateway": true, "hairpinMode": true}}
	for k, v := range keys {
		c[k] = v
	}
	b, err := json.Marshal(c)
	require.NoError(w.t, err)
	return string(b)
}

var with = machine.With

// pod is what a runtime knows of one interface of a container.
type pod struct {
	w          *world
	id, ifName string
	ns         *netns.NS
	prev       json.RawMessage
}

func (w *world) pod(id string) *pod { return &pod{w: w, id: id, ifName: "eth0", ns: nstest.New(w.t)} }

func (p *pod) call(verb cni.Verb, conf string) cnitest.Answer {
	p.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := cnitest.Request{Verb: verb, Config: conf, ContainerID: p.id, IfName: p.ifName, Pod: p.ns, Path: p.w.path}.Run(ctx, p.w.node, flannel.Plugin{}, linked)
	require.NoError(p.w.t, err)
	return a
}

func (p *pod) must(verb cni.Verb, conf string) cnitest.Answer {
	p.w.t.Helper()
	a := p.call(verb, conf)
	require.Zero(p.w.t, a.Status, "%s of %s %s: %s", verb, p.id, p.ifName, a)
	return a
}

func (p *pod) add(conf string) *cni.Result {
	p.w.t.Helper()
	p.prev = p.must(cni.ADD, conf).Out
	res, err := cni.ParseResult(p.prev)
	require.NoError(p.w.t, err)
	return res
}

func (p *pod) check(conf string) { p.must(cni.CHECK, with(conf, "prevResult", p.prev)) }

// refused makes a call that must fail, and returns its code.
func (p *pod) refused(verb cni.Verb, conf, says string) cni.Code {
	p.w.t.Helper()
	a := p.call(verb, conf)
	require.Equal(p.w.t, 1, a.Status, "%s %s: %s", verb, conf, a)
	var e struct {
		Code         cni.Code
		Msg, Details string
	}
	require.NoError(p.w.t, json.Unmarshal(a.Out, &e))
	require.Contains(p.w.t, e.Msg, says)
	return e.Code
}

// gc collects garbage while the runtime still has those pods.
func (w *world) gc(conf string, valid ...*pod) cnitest.Answer {
	w.t.Helper()
	list := []cni.Attachment{}
	for _, p := range valid {
		list = append(list, cni.Attachment{ContainerID: p.id, IfName: p.ifName})
	}
	return (&pod{w: w}).call(cni.GC, with(conf, "cni.dev/valid-attachments", list))
}

// leases are the addresses that are held.
func (w *world) leases() (held []string) {
	entries, err := os.ReadDir(w.file("leases/cbr0"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			held = append(held, e.Name())
		}
	}
	return held
}

// records are the files below the data directory.
func (w *world) records() (names []string) {
	root := w.file("flannel")
	_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(root, path)
			names = append(names, rel)
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// empty fails if anything of a pod is left: its device, its addresses, its records.
func (w *world) empty() {
	w.t.Helper()
	links, err := nstest.Netlink(w.t, w.node).LinkList()
	require.NoError(w.t, err)
	for _, l := range links {
		if l.Type() == "veth" {
			require.Equal(w.t, "uplink", l.Attrs().Name)
		}
	}
	require.Empty(w.t, w.leases())
	require.Empty(w.t, w.records())
}

// dump is the node's state when the kernel has done what it does by itself.
func (w *world) dump() string {
	nstest.Settle(w.t, w.node)
	return nstest.Dump(w.node)
}

func reach(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}), "ping %s", to)
}
