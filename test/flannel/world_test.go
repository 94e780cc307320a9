//go:build linux

package flannel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// soon is how long a test waits for what a node does at once.
const soon = 60 * time.Second

const (
	store      = "192.0.2.100"
	configKey  = "/coreos.com/network/config"
	subnetsKey = "/coreos.com/network/subnets/"
)

// world is an etcd and nodes on one link, with a router to an outside that knows no way back to pods.
type world struct {
	t        *testing.T
	etcd     *etcdtest.Server
	flanneld string
	agent    string // the program cniblocks
	ours     string // CNI_PATH of our plugins
	theirs   string // of flannel's own and the reference's
	outside  *netns.NS
	nodes    map[string]*node
	dir      string
}

type node struct {
	w       *world
	name    string
	ns      *netns.NS
	dir     string
	running *process
}

func newWorld(t *testing.T, config string, nodes ...string) *world {
	t.Helper()
	nstest.NeedRoot(t)
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	w := &world{t: t, outside: nstest.New(t), nodes: map[string]*node{}}
	var err error
	w.dir, err = os.MkdirTemp("", "cnib") //nolint:usetesting // the path of a socket must be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(w.dir)) })
	w.flanneld, err = reference.Flanneld()
	require.NoError(t, err)
	w.theirs, err = reference.Build("flannel", "bridge", "host-local")
	require.NoError(t, err)
	w.ours, err = binaries.Build()
	require.NoError(t, err)
	w.agent, err = binaries.Command()
	require.NoError(t, err)

	w.etcd = etcdtest.New(t, "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", "http://"+store+":2379")
	wire := lab.NewWire(t)
	wire.Join(w.etcd.NS, "etcd", 100)
	wire.Join(w.outside, "outside", 99)
	for i, name := range nodes {
		n := &node{w: w, name: name, ns: nstest.New(t), dir: filepath.Join(w.dir, name)}
		require.NoError(t, os.MkdirAll(n.dir, 0o755))
		wire.Join(n.ns, name, 11+i)
		nstest.AddRoute(t, n.ns, "default", "192.0.2.99")
		nstest.AddRoute(t, n.ns, "default", "2001:db8::99")
		nstest.Settle(t, n.ns)
		w.nodes[name] = n
	}
	w.etcd.Ctl(t, "put", configKey, config)
	return w
}

// process is a program that runs on a node.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

// start runs a program on the node; it ends with the test at the latest.
func (n *node) start(name string, args ...string) {
	n.w.t.Helper()
	require.Nil(n.w.t, n.running)
	p := &process{cmd: exec.Command(name, args...), log: filepath.Join(n.dir, "log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(n.w.t, err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), "NODE_NAME="+n.name, "WIREGUARD_KEY_FILE="+filepath.Join(n.dir, "wgkey"))
	require.NoError(n.w.t, n.ns.Do(p.cmd.Start))
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	n.running = p
	n.w.t.Cleanup(func() {
		if n.w.t.Failed() {
			b, _ := os.ReadFile(p.log)
			n.w.t.Logf("log of node %s: %s", n.name, b[max(0, len(b)-6000):])
		}
		if n.running == p {
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
}

// stop ends the program as systemd and Kubernetes do.
func (n *node) stop() {
	n.w.t.Helper()
	require.NoError(n.w.t, n.running.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-n.running.done:
	case <-time.After(soon):
		require.Fail(n.w.t, "it does not end", n.name)
	}
	n.running = nil
}

func (n *node) subnetFile() string { return filepath.Join(n.dir, "subnet.env") }

// byFlanneld starts flanneld on the node and waits for its subnet.env.
func (n *node) byFlanneld(args ...string) {
	n.w.t.Helper()
	before, _ := os.Stat(n.subnetFile())
	n.start(n.w.flanneld, append([]string{"--etcd-endpoints", "http://" + store + ":2379", "--iface", "eth0", "--ip-masq",
		"--subnet-file", n.subnetFile(), "-v", "1"}, args...)...)
	n.await("flanneld writes subnet.env", func() bool {
		st, err := os.Stat(n.subnetFile())
		return err == nil && (before == nil || !os.SameFile(before, st) || !st.ModTime().Equal(before.ModTime()))
	})
}

// byAgent starts our agent on the node and waits until it is ready.
func (n *node) byAgent(args ...string) {
	n.w.t.Helper()
	state := filepath.Join(n.dir, "run")
	n.start(n.w.agent, append([]string{"agent", "--source", "etcd://" + store + ":2379", "--network", "cbr0", "--node", n.name,
		"--interface", "^eth0$", "--subnet-file", n.subnetFile(), "--state-dir", state, "--data-dir", filepath.Join(n.dir, "lib"),
		"--lease-dir", filepath.Join(n.dir, "leases")}, args...)...)
	n.await("the agent is ready", func() bool {
		return exec.Command(n.w.agent, "status", "cbr0", "--state-dir", state).Run() == nil
	})
}

func (n *node) await(what string, done func() bool) {
	n.w.t.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		select {
		case <-n.running.done:
			require.Fail(n.w.t, "the program of node "+n.name+" ended", n.running.err)
		default:
		}
		if done() {
			return
		}
		require.True(n.w.t, time.Now().Before(end), "node %s: %s", n.name, what)
	}
}

func (n *node) env() flannel.SubnetEnv {
	n.w.t.Helper()
	e, err := flannel.ReadSubnetEnv(n.subnetFile())
	require.NoError(n.w.t, err)
	return e
}

// pod is one that a runtime attached.
type pod struct {
	n     *node
	id    string
	ns    *netns.NS
	addrs []netip.Addr
	prev  json.RawMessage
}

// conf is the netconf of all nodes, in the version that flannel's own plugin of our reference knows.
func (n *node) conf() string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "cbr0", "type": "flannel", "subnetFile": %q, "dataDir": %q,
		"ipam": {"dataDir": %q}, "delegate": {"hairpinMode": true, "isDefaultGateway": true}}`,
		n.subnetFile(), filepath.Join(n.dir, "flannel"), filepath.Join(n.dir, "leases"))
}

// attach adds a pod with the plugins in a directory.
func (n *node) attach(bin, id string) *pod {
	n.w.t.Helper()
	p := &pod{n: n, id: id, ns: nstest.New(n.w.t)}
	nstest.Sysctl(n.w.t, p.ns, "net/ipv6/conf/default/accept_dad", "0")
	p.prev = p.call(cni.ADD, bin, n.conf())
	res, err := cni.ParseResult(p.prev)
	require.NoError(n.w.t, err)
	for _, ip := range res.IPs {
		p.addrs = append(p.addrs, ip.Address.Addr())
	}
	return p
}

func (p *pod) check(bin string) {
	p.n.w.t.Helper()
	conf := strings.TrimSuffix(p.n.conf(), "}") + `, "prevResult": ` + string(p.prev) + "}"
	p.call(cni.CHECK, bin, conf)
}

func (p *pod) delete(bin string) { p.call(cni.DEL, bin, p.n.conf()) }

func (p *pod) call(verb cni.Verb, bin, conf string) []byte {
	p.n.w.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "flannel"))
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+string(verb), "CNI_CONTAINERID="+p.id, "CNI_IFNAME=eth0", "CNI_PATH="+bin,
		fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), p.ns.Fd()))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := p.n.ns.Do(cmd.Run)
	require.NoError(p.n.w.t, err, "%s of %s by %s: %s %s", verb, p.id, bin, out.String(), errs.String())
	return out.Bytes()
}

// reachEachOther proves that every pod reaches every other one.
func (w *world) reachEachOther(pods ...*pod) {
	w.t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			for _, a := range to.addrs {
				if from != to {
					w.reach(from.ns, a, from.id+" to "+to.id)
				}
			}
		}
	}
}

func (w *world) reach(from *netns.NS, to netip.Addr, what string) {
	w.t.Helper()
	var err error
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err = nstest.Ping(ctx, from, to, ping.Options{})
		cancel()
		if err == nil {
			return
		}
	}
	require.NoError(w.t, err, "%s: ping %s", what, to)
}

var outside = []netip.Addr{netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99")}

// reachOutside proves that pods reach who knows no way back to them.
func (w *world) reachOutside(pods ...*pod) {
	w.t.Helper()
	for _, p := range pods {
		for i := range p.addrs {
			w.reach(p.ns, outside[i], p.id+" to the outside")
		}
	}
}

// stream sends echo requests from one pod to another until the function that it returns is called, which says what became
// of them.
func (w *world) stream(from, to *pod) (end func() string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan string)
	go func() {
		sent, lost := 0, 0
		for ctx.Err() == nil {
			one, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
			sent++
			if nstest.Ping(one, from.ns, to.addrs[0], ping.Options{}) != nil {
				lost++
			}
			stop()
			time.Sleep(10 * time.Millisecond)
		}
		done <- fmt.Sprintf("%d echo requests sent, %d without an answer in 300 ms", sent, lost)
	}()
	var said string
	stop := sync.OnceFunc(func() { cancel(); said = <-done })
	w.t.Cleanup(stop)
	return func() string { stop(); return said }
}

// wayBack does what the documentation says to do after a node went back to flanneld.
func (n *node) wayBack() {
	n.w.t.Helper()
	doc, err := os.ReadFile("../../docs/move-from-flannel.md")
	require.NoError(n.w.t, err)
	_, rest, ok := strings.Cut(string(doc), "\n## The way back\n")
	require.True(n.w.t, ok)
	_, rest, _ = strings.Cut(rest, "take away on the node")
	_, rest, _ = strings.Cut(rest, "```sh\n")
	commands, _, ok := strings.Cut(rest, "```")
	require.True(n.w.t, ok)
	var out []byte
	require.NoError(n.w.t, n.ns.Do(func() error {
		out, err = exec.Command("sh", "-exc", commands).CombinedOutput()
		return err
	}), "%s", out)
}

// leases are the keys of all nodes' leases.
func (w *world) leases() []string {
	w.t.Helper()
	return strings.Fields(w.etcd.Ctl(w.t, "get", "--prefix", "--keys-only", subnetsKey))
}
