//go:build linux

package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

func TestMain(m *testing.M) {
	node.Init()
	nstest.Main(m, binaries.Remove)
}

// step is a command of a page and what must come of it.
type step struct {
	page, text string
	as         string   // what is run in its place, where the page has a word to be filled in or a program that goes on
	prep       string   // commands before it, which the page leaves to the reader
	want       []string // regular expressions of what it prints
	status     int
	then       func(*world)
}

const (
	conflist  = "/etc/cni/net.d/10-pods.conflist"
	keepAgent = " >/run/agent.log 2>&1 & echo $! >/run/agent.pid"
	stopAgent = "kill $(cat /run/agent.pid); while kill -0 $(cat /run/agent.pid) 2>/dev/null; do sleep 0.05; done"
)

// oneMachine is a reader with one machine.
var oneMachine = []step{
	{page: "README.md", text: "make build && make install", want: []string{`(?m)^installed in /opt/cni/bin: bandwidth bridge flannel host-gw host-local loopback macvlan overlay portmap ptp$`}},
	{page: "README.md", text: "install -D -m 644 examples/conflists/dual-stack.conflist " + conflist, then: (*world).attachAsREADME},
	{page: "README.md", text: "cniblocks show", want: []string{`uplink eth0: 192\.0\.2\.11/24`, `bridge cni0 \[ours\]: made for network pods`, `\[ours\]  c1 eth0  10\.22\.0\.2/16, fd00:10:22::2/64; leased`}},
	{page: "docs/stability.md", text: "cniblocks version", want: []string{`(?m)^CNI 0\.1\.0 to 1\.1\.0$`}},
	{page: "docs/plugins/bridge.md", text: "ip netns add blue"},
	{page: "docs/plugins/bridge.md", text: `echo '{"cniVersion":"1.0.0","name":"demo","type":"bridge","bridge":"demo0","isGateway":true,
       "ipam":{"type":"host-local","subnet":"10.88.0.0/24"}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/blue CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge`, want: []string{`"address": ?"10\.88\.0\.2/24"`}},
	{page: "docs/plugins/bridge.md", text: "ip -d link show master cni0", want: []string{`alias cniblocks/pods/c1/eth0`}},
	{page: "docs/plugins/bridge.md", text: "nft list table inet cniblocks", want: []string{`masquerade fully-random.* comment "cniblocks pods"`}},
	{page: "docs/plugins/bridge.md", text: "ls /var/lib/cni/networks/pods", want: []string{`(?m)^10\.22\.0\.2$`, `(?m)^lock$`}},
	{page: "docs/plugins/ptp.md", text: "ip netns add blue", as: "ip netns add green"},
	{page: "docs/plugins/ptp.md", text: `echo '{"cniVersion":"1.0.0","name":"demo","type":"ptp",
       "ipam":{"type":"host-local","subnet":"10.88.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/blue CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/ptp`,
		as: `echo '{"cniVersion":"1.0.0","name":"demo2","type":"ptp",
       "ipam":{"type":"host-local","subnet":"10.89.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/green CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/ptp`, want: []string{`"gateway": ?"10\.89\.0\.1"`}},
	{page: "docs/plugins/ptp.md", text: "ip -d addr show type veth", want: []string{`alias cniblocks/demo2/c1/eth0`, `inet 10\.89\.0\.1/32`}},
	{page: "docs/plugins/ptp.md", text: "ip netns exec blue ip route", as: "ip netns exec green ip route", want: []string{`default via 10\.89\.0\.1`, `10\.89\.0\.0/24 via 10\.89\.0\.1`}},
	{page: "docs/plugins/macvlan.md", text: "ip netns add blue", as: "ip netns add violet"},
	{page: "docs/plugins/macvlan.md", text: `echo '{"cniVersion":"1.0.0","name":"lan","type":"macvlan","master":"eth0",
       "ipam":{"type":"host-local","subnet":"10.88.0.0/24"}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/blue CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/macvlan`,
		as: `echo '{"cniVersion":"1.0.0","name":"lan","type":"macvlan","master":"eth0",
       "ipam":{"type":"host-local","subnet":"10.90.0.0/24"}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/violet CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/macvlan`, want: []string{`"address": ?"10\.90\.0\.2/24"`}},
	{page: "docs/plugins/macvlan.md", text: "ip netns exec blue ip -d link show eth0", as: "ip netns exec violet ip -d link show eth0", want: []string{`alias cniblocks/lan/c1/eth0`, `macvlan mode bridge`}},
	{page: "docs/plugins/ptp.md", text: "cniblocks show", want: []string{`c1 eth0  10\.89\.0\.2/24; leased`}},
	{page: "docs/plugins/bandwidth.md", text: "tc qdisc show | grep tbf", prep: limitPod, want: []string{`qdisc tbf 1: dev veth`, `qdisc tbf 1: dev bwp`}},
	{page: "docs/plugins/bandwidth.md", text: "ip -d link show type ifb", want: []string{`alias cniblocks/demo2/c1/eth0`}},
	{page: "docs/plugins/bandwidth.md", text: "cniblocks show", want: []string{`receives 10 Mbit/s, sends 5 Mbit/s`}},
	{page: "docs/plugins/bandwidth.md", text: "cniblocks qos", want: []string{`^c1 eth0: receives 10 Mbit/s with a burst of 50 kB, sends 5 Mbit/s with a burst of 50 kB\n$`}},
	{page: "docs/plugins/bandwidth.md", text: "cniblocks qos web --ingress 20M --egress none", as: "cniblocks qos c1 --network demo2 --ingress 20M --egress none",
		want: []string{`receives 20 Mbit/s \(set by hand\) with a burst of 50 kB, sends no limit \(set by hand\)`}},
	{page: "docs/plugins/portmap.md", text: "nft list table inet cniblocks-hostports",
		prep: `echo '{"cniVersion":"1.0.0","name":"demo2","type":"portmap","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80}]},
       "prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/green"}],"ips":[{"address":"10.89.0.2/24","interface":0}]}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/green CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/portmap`,
		want: []string{`tcp \. 8080 comment "cniblocks/demo2/c1/eth0" : 10\.89\.0\.2 \. 80`}},
	{page: "docs/plugins/dhcp.md", text: "cniblocks dhcp &",
		as: "cniblocks dhcp 2>/dev/null & p=$!; until [ -S /run/cni/dhcp.sock ]; do sleep 0.05; done; kill $p; wait $p"},
	{page: "docs/names.md", text: "ip link show type veth", want: []string{`alias cniblocks/pods/c1/eth0`, `alias cniblocks/demo/c1/eth0`}},
	{page: "docs/names.md", text: "ip link show group 117", want: []string{`cni0`, `demo0`}},
	{page: "README.md", text: "cniblocks cleanup --network pods", want: []string{`(?m)^removed  pod interface .* eth0 of container c1$`, `(?m)^removed  bridge +cni0$`, `(?m)^removed  leases .*/pods`}},
	{page: "README.md", text: "make install", want: []string{`(?m)^up to date in /opt/cni/bin: `}},
	{page: "README.md", text: "cniblocks install --from /opt/cni/bin/loopback --dir /opt/cni/bin", want: []string{`^up to date in /opt/cni/bin: `}},
	{page: "README.md", text: "make help", want: []string{`(?m)^demo `, `(?m)^test `}},
	{page: "README.md", text: "cniblocks help", want: []string{`Usage: cniblocks COMMAND`}},
	{page: "docs/reliability.md", text: "cniblocks cleanup --all", want: []string{`(?m)^removed  bridge +demo0$`, `eth0 of container c1`, `leases .*/demo2`}},
	{page: "examples/conflists/README.md", text: "sudo make install", want: []string{`(?m)^up to date in `}},
	{page: "examples/conflists/README.md", text: "sudo install -D -m 644 examples/conflists/dual-stack.conflist /etc/cni/net.d/10-dual-stack.conflist"},
	{page: "docs/move-from-flannel.md", text: "make build", want: []string{`(?m)^bridge$`}},
	{page: "docs/move-from-flannel.md", text: "cp -a /opt/cni/bin /opt/cni/bin.before"},
	{page: "docs/move-from-flannel.md", text: "make install"},
	{page: "docs/move-from-flannel.md", text: "cp -a --remove-destination /opt/cni/bin.before/. /opt/cni/bin/"},
	{page: "docs/plugins/flannel.md", text: "rm -r /var/lib/cni/flannel/.attachments*", prep: "mkdir -p /var/lib/cni/flannel/.attachments-cbr0"},
	{page: "docs/encapsulations/vxlan.md", text: "printf pods | sha256sum", want: []string{`^[0-9a-f]{64} `}},
	{page: "docs/encapsulations/vxlan.md", text: `printf 'pods\0a\0ipv4' | sha256sum`, want: []string{`^[0-9a-f]{64} `}},
}

// manyMachines is one with two, of which this is the first; it sees numbers where the other page has made names for them.
var manyMachines = []step{
	{page: "docs/plugins/overlay.md", text: "mkdir -p /etc/cniblocks", prep: "bin/cniblocks install --from bin/loopback --dir /opt/cni/bin; install bin/cniblocks /usr/local/bin"},
	{page: "docs/plugins/overlay.md", text: `cat > /etc/cniblocks/peers.json <<X
{ "network": "10.244.0.0/16",
  "peers": [ { "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24" },
             { "name": "b", "endpoint": "192.0.2.12", "pods": "10.244.2.0/24" } ] }
X`},
	{page: "docs/plugins/overlay.md", text: "install -D -m 644 examples/overlay/overlay-vxlan.conflist " + conflist},
	{page: "docs/plugins/overlay.md", text: "cniblocks overlay up --conf " + conflist, want: []string{`^pods: vxlan, this machine is "a", MTU for pods 1450\n$`}},
	{page: "docs/encapsulations/vxlan.md", text: "ip -d link show type vxlan", want: []string{`cb-vxlan-049c28`, `alias cniblocks/pods`}},
	{page: "docs/encapsulations/vxlan.md", text: "ip address show dev cb-vxlan-049c28", want: []string{`inet 10\.244\.1\.0/32`}},
	{page: "docs/encapsulations/vxlan.md", text: "ip route show proto 117"},
	{page: "docs/encapsulations/vxlan.md", text: "ip neigh show dev cb-vxlan-049c28"},
	{page: "docs/encapsulations/vxlan.md", text: "bridge fdb show dev cb-vxlan-049c28"},
	{page: "docs/encapsulations/vxlan.md", text: "bridge -d link show"},
	{page: "docs/encapsulations/wireguard.md", text: "cniblocks wireguard pubkey NETWORK", as: "cniblocks wireguard pubkey pods", want: []string{`^[A-Za-z0-9+/]{43}=\n$`}},
	{page: "docs/plugins/overlay.md", text: "cp deploy/systemd/cniblocks-overlay@.* /etc/systemd/system/"},
	{page: "docs/plugins/overlay.md", text: "cniblocks overlay down --conf FILE", as: "cniblocks overlay down --conf " + conflist, want: []string{"^the overlay is gone from this node\n$"}},
	{page: "docs/agent.md", text: "cniblocks agent --source file:/etc/cniblocks/peers.json --encap vxlan",
		as: "cniblocks agent --source file:/etc/cniblocks/peers.json --encap vxlan" + keepAgent, then: (*world).awaitAgent},
	{page: "docs/agent.md", text: "install -m 644 deploy/systemd/cniblocks-agent.service /etc/systemd/system/"},
	{page: "docs/agent.md", text: "mkdir -p /etc/cniblocks"},
	{page: "docs/agent.md", text: `echo '{"source": "etcd://192.0.2.1:2379", "interface": "eth.*"}' > /etc/cniblocks/agent.json`},
	{page: "docs/agent.md", text: "cniblocks agent --help", want: []string{"^Usage: cniblocks agent", `(?m)^  --source SOURCE +the SOURCE of peers`}},
	{page: "docs/sources/file.md", text: "cniblocks agent --source file:/etc/cniblocks/peers.json --network pods --encap vxlan", prep: stopAgent,
		as: "cniblocks agent --source file:/etc/cniblocks/peers.json --network pods --encap vxlan" + keepAgent, then: (*world).awaitAgent},
	{page: "docs/sources/file.md", text: "cniblocks status", want: []string{`^network +pods: ready\nnode +a\nranges +10\.244\.1\.0/24\n`, `(?m)^peers +2, left out: 0; routes: 1$`}},
	{page: "docs/sources/file.md", text: "cniblocks env pods --docker", want: []string{`^--bip=10\.244\.1\.1/24 --ip-masq=false --mtu=1450\n$`}},
	{page: "docs/sources/file.md", text: "cniblocks env pods", want: []string{`^FLANNEL_NETWORK=10\.244\.0\.0/16\nFLANNEL_SUBNET=10\.244\.1\.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n$`}},
	{page: "docs/metrics.md", text: "curl --unix-socket /run/cniblocks/pods/agent.sock http://agent/metrics", want: []string{`(?m)^cniblocks_ready 1$`}},
	{page: "docs/agent.md", text: "cniblocks cleanup --network NETWORK", as: "cniblocks cleanup --network pods", status: 1,
		want: []string{`^cniblocks cleanup: an agent keeps network "pods" on this node \(process \d+, `}},
	{page: "docs/names.md", text: "ip route show proto 117", want: []string{`(?m)^10\.244\.2\.0/24 via 10\.244\.2\.0 dev cb-vxlan-049c28 `}},
	{page: "docs/sources/file.md", text: "cniblocks env pods --mtu 1450", prep: stopAgent + "; rm -r /run/cniblocks; cniblocks overlay up --conf " + conflist, want: []string{`FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n$`}},
	{page: "docs/data-path.md", text: "ping -c 3 -M do -s 1472 192.0.2.12", want: []string{`3 received`}},
}

// limitPod chains the bandwidth plugin behind the pod of the page of ptp.
const limitPod = `END=$(ip -o link show type veth | grep demo2 | sed -n 's/^[0-9]*: \(veth[^@]*\)@.*/\1/p' | head -1)
echo '{"cniVersion":"1.0.0","name":"demo2","type":"bandwidth","ingressRate":10000000,"ingressBurst":400000,"egressRate":5000000,"egressBurst":400000,
"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"'$END'"},{"name":"eth0","sandbox":"/run/netns/green"}]}}' |
CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/green CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bandwidth`

func TestEveryCommandOfThePagesIsRunOrListed(t *testing.T) {
	t.Parallel()
	steps := slices.Concat(oneMachine, manyMachines)
	used := make([]bool, len(elsewhere))
	for _, page := range pages(t) {
		commands := commandsOf(t, page)
		next := 0
		for _, s := range steps {
			if s.page == page {
				i := slices.IndexFunc(commands[next:], func(c command) bool { return c.text == s.text })
				require.GreaterOrEqual(t, i, 0, "%s has no command %q, or it stands before the one that is run before", page, s.text)
				next += i + 1
			}
		}
		for _, c := range commands {
			known := slices.ContainsFunc(steps, func(s step) bool { return s.text == c.text })
			for i, e := range elsewhere {
				if (e.page == "" || e.page == page) && strings.HasPrefix(c.text, e.begins) {
					used[i], known = true, true
				}
			}
			require.True(t, known, "%s: nobody runs %q: make it a step, or list it with the place that runs it", page, c.text)
		}
	}
	for i, e := range elsewhere {
		require.True(t, used[i], "no page has a command %q any more: %s", e.begins, e.page)
		require.True(t, e.dir != "" || e.why != "", e.begins)
		if e.dir != "" {
			tests, err := filepath.Glob(filepath.Join(root, e.dir, "*_test.go"))
			require.NoError(t, err)
			require.NotEmpty(t, tests, "%s: there are no tests in %s", e.begins, e.dir)
		}
	}
}

func TestEveryPageHasACommandToCopyAndIsInTheIndex(t *testing.T) {
	t.Parallel()
	index := map[string]bool{"docs/README.md": true}
	for _, page := range pages(t) {
		b, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllSubmatch(b, -1) {
			to := filepath.Join(filepath.Dir(page), string(m[1]))
			_, err := os.Stat(filepath.Join(root, to))
			require.NoError(t, err, "%s has a link to %s", page, m[1])
			index[to] = index[to] || page == "docs/README.md"
		}
	}
	for _, page := range pages(t) {
		if strings.HasPrefix(page, "docs/") {
			require.NotEmpty(t, commandsOf(t, page), "%s has no command to copy", page)
			require.True(t, index[page], "docs/README.md has no link to %s", page)
		}
	}
}

func TestAReaderWithOneMachine(t *testing.T) {
	t.Parallel()
	newWorld(t).follow(oneMachine)
}

func TestAReaderWithManyMachines(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	newWorld(t).follow(manyMachines)
}

// world is a machine on which nothing of ours is installed, and the source tree.
type world struct {
	*node.Node
	t        *testing.T
	checkout string
}

// newWorld makes the machine 192.0.2.11, with its own /etc, /opt and /usr/local/bin, and a neighbour 192.0.2.12. In the
// tree stands a compiler in the place of go that has the programs ready.
func newWorld(t *testing.T) *world {
	t.Helper()
	for _, program := range []string{"make", "nft", "curl", "ping", "bridge"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("lane: %v; apt-get install make nftables curl iputils-ping iproute2", err)
		}
	}
	w := &world{Node: node.New(t), t: t, checkout: t.TempDir()}
	plugins, err := binaries.Build()
	require.NoError(t, err)
	people, err := binaries.Command()
	require.NoError(t, err)
	for _, name := range []string{"Makefile", "examples", "deploy"} {
		to := filepath.Join(w.checkout, name)
		if name == "Makefile" {
			b, err := os.ReadFile(filepath.Join(root, name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(to, b, 0o644))
			continue
		}
		require.NoError(t, os.CopyFS(to, os.DirFS(filepath.Join(root, name))))
	}
	require.NoError(t, os.WriteFile(filepath.Join(w.checkout, "go"), []byte(fmt.Sprintf(`#!/bin/sh
[ "$1" = env ] && { echo amd64; exit; }
for last; do [ "$before" = -o ] && to=$last; before=$last; done
case $last in
./plugins) cp %s/bridge "$to" ;;
./plugins/dhcp/program) cp %s/dhcp "$to" ;;
./cmd/cniblocks) cp %s "$to" ;;
*) exit 1 ;;
esac
`, plugins, plugins, people)), 0o755))
	nstest.Sysctl(t, w.Net, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(t, nstest.End{NS: w.Net, Name: "eth0", Addrs: []string{"192.0.2.11/24"}},
		nstest.End{NS: nstest.New(t), Name: "eth0", Addrs: []string{"192.0.2.12/24"}})
	out, err := w.sh(`
mkdir /run/etc /run/opt /run/local /run/share
cp -a /etc/. /run/etc/
rm -rf /run/etc/cni /run/etc/cniblocks /run/etc/iproute2/rt_protos.d
mkdir -p /run/etc/systemd/system
printf '#!/bin/sh\nexec "$@"\n' > /run/local/sudo; chmod +x /run/local/sudo
mount --bind /run/etc /etc; mount --bind /run/opt /opt; mount --bind /run/local /usr/local/bin; mount --bind /run/share /usr/local/share
GO=./go make build >/dev/null`)
	require.NoError(t, err, out)
	return w
}

// sh runs commands in the source tree, and returns all that they print.
func (w *world) sh(commands string) (string, error) {
	return w.Run([]string{"GO=./go", "PATH=/usr/local/bin:" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "COLUMNS=200"},
		"sh", "-ec", "exec 2>&1\ncd "+w.checkout+"\n"+commands)
}

func (w *world) follow(steps []step) {
	for _, s := range steps {
		if s.prep != "" {
			out, err := w.sh(s.prep)
			require.NoError(w.t, err, out)
		}
		text := s.text
		if s.as != "" {
			text = s.as
		}
		out, err := w.sh(text)
		var exit *exec.ExitError
		if s.status != 0 {
			require.ErrorAs(w.t, err, &exit, out)
			require.Equal(w.t, s.status, exit.ExitCode(), out)
		} else {
			require.NoError(w.t, err, "%s: %s", s.page, text)
		}
		for _, want := range s.want {
			require.Regexp(w.t, regexp.MustCompile(want), out, "%s: %s", s.page, text)
		}
		for line := range strings.Lines(w.shown(s)) {
			require.Contains(w.t, strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(line), " "), "%s: %s", s.page, text)
		}
		if s.then != nil {
			s.then(w)
		}
	}
}

// shown is what the page has the step print.
func (w *world) shown(s step) string {
	for _, c := range commandsOf(w.t, s.page) {
		if c.text == s.text {
			return c.shown
		}
	}
	return ""
}

// attachAsREADME finds the configuration that README shows in its place, and does what a runtime does.
func (w *world) attachAsREADME() {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(w.t, err)
	_, rest, found := bytes.Cut(readme, []byte("```json\n"))
	require.True(w.t, found)
	shown, _, _ := bytes.Cut(rest, []byte("```"))
	list, err := w.sh("cat " + conflist)
	require.NoError(w.t, err)
	require.JSONEq(w.t, string(shown), list)

	var conf struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	require.NoError(w.t, json.Unmarshal([]byte(list), &conf))
	first := conf.Plugins[0]
	first["name"], first["cniVersion"] = conf.Name, conf.CNIVersion
	b, err := json.Marshal(first)
	require.NoError(w.t, err)
	path, _ := w.Pod(w.t, "web")
	w.Write(w.t, "/run/conf", string(b))
	out, err := w.sh(fmt.Sprintf("CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=%s CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/%s </run/conf", path, first["type"]))
	require.NoError(w.t, err, out)
}

// awaitAgent waits until the agent that was started last is ready.
func (w *world) awaitAgent() {
	var out string
	err := errors.New("it was not asked")
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out, err = w.sh("cniblocks status")
	}
	if err != nil {
		log, _ := w.sh("cat /run/agent.log")
		require.NoError(w.t, err, "%s\n%s", out, log)
	}
}
