//go:build linux

package portmap_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/inventory/sweep"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/portmap"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// world is a node with a machine outside; pods get their interfaces from the bridge plugin.
type world struct {
	t             *testing.T
	node, outside *netns.NS
	dir           string
}

func newWorld(t *testing.T) world {
	t.Helper()
	nstest.Need(t, nstest.NFT, nstest.Bridge)
	w := world{t: t, node: nstest.New(t), dir: t.TempDir()}
	w.outside = lab.Node(t, w.node, 1)
	return w
}

func (w world) ask(p cni.Plugin, q cnitest.Request) cnitest.Answer {
	w.t.Helper()
	a, err := q.Run(w.t.Context(), w.node, p, cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(w.t, err)
	return a
}

// attach returns a container on the bridge, with its result. It serves at port 80.
func (w world) attach(id string) (*netns.NS, []byte) {
	w.t.Helper()
	_, pod := nstest.Named(w.t)
	a := w.ask(bridge.Plugin{}, cnitest.Request{ContainerID: id, Pod: pod, Config: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isDefaultGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00:1::/64"}]]}}`, w.dir)})
	require.Zero(w.t, a.Status, "%s", a)
	nstest.Serve(w.t, pod, netip.MustParseAddrPort("[::]:80"))
	return pod, a.Out
}

func conf(keys, mappings string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"portmap",%s"RuntimeConfig":{"portMappings":[%s]}}`, keys, mappings)
}

const web = `{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP"}`

func (w world) reached() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return nstest.Stream(ctx, w.outside, netip.MustParseAddrPort("192.0.2.1:8080"), 1000)
}

func TestTheVerbsDoWhatTheySayInBothBackends(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			if backend == "iptables" {
				nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
			}
			w := newWorld(t)
			pod, prev := w.attach("c1")
			c := conf(`"backend":"`+backend+`",`, web)
			q := cnitest.Request{Pod: pod, Config: c, Prev: prev}
			a := w.ask(portmap.Plugin, cnitest.Request{Verb: cni.STATUS, Config: c})
			require.Zero(t, a.Status, "%s", a)
			a = w.ask(portmap.Plugin, q)
			require.Zero(t, a.Status, "%s", a)
			require.JSONEq(t, string(prev), string(a.Out))
			require.NoError(t, w.reached())
			q.Verb = cni.CHECK
			a = w.ask(portmap.Plugin, q)
			require.Zero(t, a.Status, "%s", a)
			require.Empty(t, a.Err, "no key is unknown")

			other, second := w.attach("c2")
			taken := cnitest.Request{ContainerID: "c2", Pod: other, Config: c, Prev: second}
			found, err := inventory.Read(t.Context(), inventory.Options{NS: w.node, DataDirs: []string{w.dir}})
			require.NoError(t, err)
			require.Len(t, found.HostPorts, 2, "of both families")
			require.Equal(t, "c1", found.HostPorts[0].ContainerID)

			a = w.ask(portmap.Plugin, taken)
			require.Contains(t, string(a.Out), `tcp 0.0.0.0:8080 is a host port of container c1 (interface eth0, network net)`)
			require.Contains(t, string(a.Out), `"code":11`)

			require.Zero(t, w.ask(portmap.Plugin, cnitest.Request{Verb: cni.GC, Config: c, Valid: []cni.Attachment{{ContainerID: "c1", IfName: "eth0"}}}).Status)
			require.NoError(t, w.reached())
			for range 2 { // without namespace, prevResult and mappings
				a = w.ask(portmap.Plugin, cnitest.Request{Verb: cni.DEL, Config: `{"cniVersion":"1.1.0","name":"net","type":"portmap","backend":7}`})
				require.Zero(t, a.Status, "%s", a)
			}
			require.Error(t, w.reached())
			require.NotZero(t, w.ask(portmap.Plugin, q).Status)
			require.Zero(t, w.ask(portmap.Plugin, taken).Status)
			found, err = inventory.Read(t.Context(), inventory.Options{NS: w.node, DataDirs: []string{w.dir}})
			require.NoError(t, err)
			plan, err := sweep.Make(sweep.Options{NS: w.node, Found: found})
			require.NoError(t, err)
			i := slices.IndexFunc(plan.Steps, func(s sweep.Step) bool { return s.Kind == "host ports" && s.Network == "net" })
			require.GreaterOrEqual(t, i, 0)
			plan.Steps = plan.Steps[i : i+1]
			require.NoError(t, plan.Run(t.Context(), func(sweep.Step, error) {}))
			require.NotRegexp(t, "CNIB|hostports", nstest.Firewall(t, w.node))
			require.Zero(t, w.ask(portmap.Plugin, taken).Status)
			require.Zero(t, w.ask(portmap.Plugin, cnitest.Request{Verb: cni.GC, Config: c, Valid: []cni.Attachment{}}).Status)
			require.NotRegexp(t, "CNIB|hostports", nstest.Firewall(t, w.node))
		})
	}
}

func TestBadInputIsAnErrorBeforeAnyChange(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	node := nstest.New(t)
	const prev = `{"cniVersion":"1.1.0","interfaces":[{"name":"h"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.2/24","interface":1}]}`
	for _, c := range []struct{ keys, mappings, want string }{
		{"", `{"hostPort":0,"containerPort":80,"protocol":"tcp"}`, `portMappings[0]\": \"hostPort\" is 0; want 1 to 65535`},
		{"", `{"hostPort":65536,"containerPort":80,"protocol":"tcp"}`, `\"hostPort\" is 65536`},
		{"", web + `,{"hostPort":81,"containerPort":-1}`, `portMappings[1]\": \"containerPort\" is -1`},
		{"", `{"hostPort":80,"containerPort":80,"protocol":"icmp"}`, `protocol \"icmp\" is not known`},
		{"", `{"hostPort":80,"containerPort":80,"hostIP":"2001:db8::1"}`, `no address of that family`},
		{"", `{"hostPort":80,"containerPort":80,"hostIP":"x"}`, `\"hostIP\" is \"x\"`},
		{"", web + `,{"hostPort":8080,"containerPort":81}`, `leave one out`},
		{`"backend":"pf",`, web, `key \"backend\" is \"pf\"`},
		{`"markMasqBit":32,`, web, `key \"markMasqBit\" is 32`},
		{`"markMasqBit":3,"externalSetMarkChain":"X",`, web, `exclude each other`},
		{`"backend":"nftables","externalSetMarkChain":"X",`, web, `key \"externalSetMarkChain\" needs`},
		{`"backend":"nftables","conditionsV4":["-s","10.0.0.1"],`, web, `key \"conditionsV4\"`},
		{`"conditionsV6":["ip6","saddr","::5"],`, web, `key \"conditionsV6\"`},
		{`"snat":false,`, `{"hostPort":80,"containerPort":80,"hostIP":"127.0.0.1"}`, `without source NAT`},
	} {
		a, err := cnitest.Request{Pod: nstest.New(t), Config: conf(c.keys, c.mappings), Prev: []byte(prev)}.Run(t.Context(), node, portmap.Plugin, nil)
		require.NoError(t, err)
		require.Equal(t, 1, a.Status, c.want)
		require.Contains(t, string(a.Out), c.want)
		require.Contains(t, string(a.Out), `"code":7`)
	}
	require.Empty(t, nstest.Ruleset(t, node))
}

func TestPortsThatTheReferenceMadeAreCheckedAndDeletedWithoutATrace(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	dir, err := reference.Build("portmap")
	require.NoError(t, err)
	for _, backend := range []string{"nftables", "iptables", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path := os.Getenv("PATH")
			if backend == "iptables-legacy" {
				links := t.TempDir()
				for _, name := range []string{"iptables", "ip6tables"} {
					program, err := exec.LookPath(name + "-legacy")
					require.NoError(t, err)
					require.NoError(t, os.Symlink(program, filepath.Join(links, name)))
				}
				path = links + ":" + path
			}
			c := conf(`"backend":"`+strings.TrimSuffix(backend, "-legacy")+`",`, strings.ToLower(web))
			var requests []cnitest.Request
			for _, id := range []string{"c1", "c2"} {
				pod, prev := w.attach(id)
				mine := strings.Replace(c, "8080", "808"+id[1:], 1)
				in := strings.TrimSuffix(mine, "}") + `,"prevResult":` + string(prev) + `}`
				require.NoError(t, w.node.Do(func() error {
					cmd := exec.Command(filepath.Join(dir, "portmap"))
					cmd.Stdin = strings.NewReader(in)
					cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_PATH=" + dir, "CNI_NETNS=" + pod.Path(), "PATH=" + path}
					out, err := cmd.CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				}))
				requests = append(requests, cnitest.Request{ContainerID: id, Pod: pod, Config: mine, Prev: prev})
			}
			require.Regexp(t, "CNI-DN-|cni_hostport", nstest.Firewall(t, w.node))
			for i, q := range requests {
				q.Verb = cni.CHECK
				a := w.ask(portmap.Plugin, q)
				require.Zero(t, a.Status, "%s", a)
				require.Zero(t, w.ask(portmap.Plugin, cnitest.Request{Verb: cni.DEL, ContainerID: q.ContainerID, Config: q.Config}).Status)
				require.NotZero(t, w.ask(portmap.Plugin, q).Status)
				if i == 0 {
					require.Regexp(t, "CNI-DN-|cni_hostport", nstest.Firewall(t, w.node))
				}
			}
			require.NotRegexp(t, "CNI-|cni_hostport", nstest.Firewall(t, w.node))
		})
	}
}
