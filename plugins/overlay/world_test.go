package overlay_test

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
	calls "github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	carrier "github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// world is machines on one link, and a router to an outside that knows no way back to pods.
type world struct {
	t        *testing.T
	machines []*machine
	outside  *netns.NS
	wire     *netns.NS
	dir      string
	keys     bool // the peers file has WireGuard keys
}

type machine struct {
	w    *world
	name string
	ns   *netns.NS
}

var delegates = cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}, "overlay": overlay.Plugin{}, "host-gw": overlay.Plugin{}}

func newWorld(t *testing.T, machines int) *world {
	t.Helper()
	nstest.NeedRoot(t)
	w := &world{t: t, dir: t.TempDir(), outside: nstest.New(t), wire: nstest.New(t)}
	wire := w.wire
	require.NoError(t, wire.Do(func() error { return run("ip", "link", "add", "wire", "type", "bridge", "mcast_snooping", "0") }))
	require.NoError(t, wire.Do(func() error { return run("ip", "link", "set", "wire", "up") }))
	join := func(ns *netns.NS, port string, addrs ...string) {
		nstest.Sysctl(t, ns, "net/ipv6/conf/default/accept_dad", "0")
		nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: addrs}, nstest.End{NS: wire, Name: port})
		require.NoError(t, wire.Do(func() error { return run("ip", "link", "set", "dev", port, "master", "wire") }))
	}
	for i := range machines {
		m := &machine{w: w, name: string(rune('a' + i)), ns: nstest.New(t)}
		join(m.ns, m.name, fmt.Sprintf("192.0.2.%d/24", 11+i), fmt.Sprintf("2001:db8::%d/64", 11+i))
		w.machines = append(w.machines, m)
	}
	join(w.outside, "outside", "192.0.2.99/24", "2001:db8::99/64")
	for _, m := range w.machines {
		nstest.Settle(t, m.ns)
	}
	return w
}

// peers writes a peers file for the machines of those names.
func (w *world) peers(names ...string) string {
	type entry struct {
		Name     string   `json:"name"`
		Endpoint []string `json:"endpoint"`
		Pods     []string `json:"pods"`
		Key      string   `json:"publicKey,omitempty"`
	}
	doc := struct {
		Network []string `json:"network"`
		Peers   []entry  `json:"peers"`
	}{Network: []string{"10.244.0.0/16", "fd00:10:244::/48"}}
	for _, n := range names {
		i := int(n[0] - 'a')
		key := ""
		if w.keys {
			k, err := carrier.WireGuard{KeyDir: filepath.Join(w.dir, n, "lib")}.PublicKey("pods")
			require.NoError(w.t, err)
			key = k.String()
		}
		doc.Peers = append(doc.Peers, entry{n, []string{fmt.Sprintf("192.0.2.%d", 11+i), fmt.Sprintf("2001:db8::%d", 11+i)},
			[]string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)}, key})
	}
	b, err := json.Marshal(doc)
	require.NoError(w.t, err)
	path := filepath.Join(w.dir, "peers.json")
	tmp := path + ".new"
	require.NoError(w.t, os.WriteFile(tmp, b, 0o600))
	require.NoError(w.t, os.Rename(tmp, path))
	return path
}

// conf is a netconf of overlay with the given keys in place of the defaults; a nil value drops a key.
func (m *machine) conf(keys map[string]any) string {
	dir := filepath.Join(m.w.dir, m.name)
	c := map[string]any{"cniVersion": "1.1.0", "name": "pods", "type": "overlay", "encap": "vxlan", "ipMasq": true,
		"peersFile": filepath.Join(m.w.dir, "peers.json"), "stateDir": filepath.Join(dir, "run"), "dataDir": filepath.Join(dir, "lib"),
		"delegate": map[string]any{"type": "bridge", "isDefaultGateway": true, "ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(dir, "leases")}}}
	for k, v := range keys {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	b, err := json.Marshal(c)
	require.NoError(m.w.t, err)
	return strings.ReplaceAll(string(b), "LEASES", filepath.Join(dir, "leases"))
}

type pod struct {
	m    *machine
	id   string
	ns   *netns.NS
	prev json.RawMessage
}

func (m *machine) pod(id string) *pod { return &pod{m: m, id: id, ns: nstest.New(m.w.t)} }

func (p *pod) call(verb cni.Verb, conf string) (status int, out []byte, errs string) {
	p.m.w.t.Helper()
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": p.id, "CNI_IFNAME": "eth0", "CNI_PATH": p.m.w.dir,
		"CNI_NETNS": fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.ns.Fd())}
	var stdout, stderr bytes.Buffer
	require.NoError(p.m.w.t, p.m.ns.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		status = cni.Run(ctx, overlay.Plugin{}, delegates, func(k string) string { return env[k] }, strings.NewReader(conf), &stdout, &stderr)
		return nil
	}))
	return status, stdout.Bytes(), stderr.String()
}

func (p *pod) must(verb cni.Verb, conf string) []byte {
	p.m.w.t.Helper()
	status, out, errs := p.call(verb, conf)
	require.Zero(p.m.w.t, status, "%s %s: %s %s", verb, p.id, out, errs)
	return out
}

func (p *pod) add(conf string) *cni.Result {
	p.m.w.t.Helper()
	p.prev = p.must(cni.ADD, conf)
	res, err := cni.ParseResult(p.prev)
	require.NoError(p.m.w.t, err)
	return res
}

func (p *pod) refused(verb cni.Verb, conf, says string) cni.Code {
	p.m.w.t.Helper()
	status, out, _ := p.call(verb, conf)
	require.Equal(p.m.w.t, 1, status)
	var e struct {
		Code cni.Code
		Msg  string
	}
	require.NoError(p.m.w.t, json.Unmarshal(out, &e))
	require.Regexp(p.m.w.t, says, e.Msg)
	return e.Code
}

func (p *pod) check(conf string) {
	p.m.w.t.Helper()
	p.must(cni.CHECK, with(conf, "prevResult", p.prev))
}

var with = calls.With

func reach(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}), "ping %s", to)
}
