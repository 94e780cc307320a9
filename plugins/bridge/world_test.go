package bridge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// world is a node with an uplink to an outside that knows no way back to pods.
type world struct {
	t             *testing.T
	node, outside *netns.NS
	dir           string // leases
	delegates     cni.Delegates
	override      string // CNI_NETNS_OVERRIDE
}

var outside4, outside6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")

func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.NeedRoot(t)
	node := nstest.New(t)
	nstest.Sysctl(t, node, "net/ipv6/conf/default/accept_dad", "0")
	w := &world{t: t, node: node, outside: nstest.New(t), dir: t.TempDir(),
		delegates: cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}}}
	nstest.Link(t, nstest.End{NS: w.node, Name: "uplink", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		nstest.End{NS: w.outside, Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	nstest.Settle(t, w.node)
	return w
}

// attachment is what a runtime knows of one interface of a container.
type attachment struct {
	w        *world
	id, name string
	pod      *netns.NS
	args     string
	gone     string // in place of the namespace's path
	prev     json.RawMessage
}

func (w *world) pod(id string) *attachment {
	return &attachment{w: w, id: id, name: "eth0", pod: nstest.New(w.t)}
}

func path(ns *netns.NS) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

// answer is what a call printed.
type answer struct {
	status int
	out    []byte
	errs   string
}

func (a answer) code() cni.Code {
	var e struct{ Code cni.Code }
	_ = json.Unmarshal(a.out, &e)
	return e.Code
}

func (a answer) msg() string {
	var e struct{ Msg string }
	_ = json.Unmarshal(a.out, &e)
	return e.Msg
}

// call runs the plugin in this process, on a thread in the node's namespace.
func (a *attachment) call(verb cni.Verb, conf string) answer {
	ns := ""
	if a.pod != nil {
		ns = path(a.pod)
	}
	if a.gone != "" {
		ns = a.gone
	}
	return a.w.call(verb, a.id, ns, a.name, a.args, conf)
}

func (w *world) call(verb cni.Verb, id, ns, ifName, args, conf string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return w.callContext(ctx, verb, id, ns, ifName, args, conf)
}

func (w *world) callContext(ctx context.Context, verb cni.Verb, id, ns, ifName, args, conf string) (ans answer) {
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": id, "CNI_NETNS": ns, "CNI_IFNAME": ifName,
		"CNI_ARGS": args, "CNI_PATH": filepath.Join(w.dir, "bin"), "CNI_NETNS_OVERRIDE": w.override}
	var out, errs bytes.Buffer
	err := w.node.Do(func() error {
		ans.status = cni.Run(ctx, bridge.Plugin{}, w.delegates, func(k string) string { return env[k] },
			strings.NewReader(conf), &out, &errs)
		return nil
	})
	require.NoError(w.t, err)
	ans.out, ans.errs = out.Bytes(), errs.String()
	return ans
}

// add attaches, and keeps the result for what follows.
func (a *attachment) add(conf string) *cni.Result {
	a.w.t.Helper()
	ans := a.call(cni.ADD, conf)
	require.Zero(a.w.t, ans.status, "ADD %s: %s %s", a.id, ans.out, ans.errs)
	a.prev = ans.out
	res, err := cni.ParseResult(ans.out)
	require.NoError(a.w.t, err)
	return res
}

func (a *attachment) check(conf string) answer {
	return a.call(cni.CHECK, with(conf, "prevResult", a.prev))
}

func (a *attachment) del(conf string) {
	a.w.t.Helper()
	ans := a.call(cni.DEL, conf)
	require.Zero(a.w.t, ans.status, "DEL %s: %s %s", a.id, ans.out, ans.errs)
}

// conf is a netconf: the defaults of a dual-stack network with the given keys in place of them. A nil value drops a key.
func (w *world) conf(keys map[string]any) string {
	c := map[string]any{"cniVersion": "1.1.0", "name": "testnet", "type": "bridge", "bridge": "br0", "isGateway": true,
		"isDefaultGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": w.dir,
			"ranges": [][]map[string]any{{{"subnet": "10.1.2.0/24"}}, {{"subnet": "fd00:1:2::/64"}}}}}
	for k, v := range keys {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	b, err := json.Marshal(c)
	require.NoError(w.t, err)
	return string(b)
}

func with(conf, key string, value any) string {
	var c map[string]any
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return conf
	}
	c[key] = value
	b, _ := json.Marshal(c)
	return string(b)
}

func reach(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}), "ping %s", to)
}

func pingShort(t *testing.T, a *attachment, to netip.Addr) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	return nstest.Ping(ctx, a.pod, to, ping.Options{})
}
