//go:build linux

package overlay_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

func TestMain(m *testing.M) {
	if os.Getenv(killedNS) != "" {
		if err := childToBeKilled(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	nstest.Main(m)
}

var prefixes = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}

// patience is how long an answer may take: a handshake of WireGuard that is lost is repeated after 5 s, and a virtual machine
// without hardware support is slow.
const patience = 20 * time.Second

// cluster is nodes that a bridge in a namespace of its own joins: the underlay.
type cluster struct {
	t     testing.TB
	wire  *netns.NS
	nodes []*node
}

// node is a machine with two pods, routed.
type node struct {
	peer.Peer
	ns   *netns.NS
	dir  string
	pods []pod
	net  *overlay.Node
}

type pod struct {
	ns     *netns.NS
	v4, v6 netip.Addr
	host   string
}

func newCluster(t testing.TB, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t, wire: nstest.New(t)}
	h := nstest.Netlink(t, c.wire)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wire"
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	br, err := h.LinkByName("wire")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(br))
	for range nodes {
		c.add()
	}
	return c
}

// add joins one more node, without pods.
func (c *cluster) add() *node {
	c.t.Helper()
	i := len(c.nodes) + 1
	n := &node{ns: nstest.New(c.t), dir: c.t.TempDir(), Peer: peer.Peer{
		Name: string(rune('a' + i - 1)),
		Pods: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i))},
		Reach: peer.Reach{
			V4: peer.Endpoint{Addr: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 10+i))},
			V6: peer.Endpoint{Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 10+i))},
		},
	}}
	nstest.Sysctl(c.t, n.ns, "net/ipv6/conf/default/accept_dad", "0") // else what a dump shows depends on the time
	port := fmt.Sprintf("port%d", i)
	nstest.Link(c.t, nstest.End{NS: c.wire, Name: port},
		nstest.End{NS: n.ns, Name: "eth0", Addrs: []string{n.V4.Addr.String() + "/24", n.V6.Addr.String() + "/64"}})
	h := nstest.Netlink(c.t, c.wire)
	l, err := h.LinkByName(port)
	require.NoError(c.t, err)
	br, err := h.LinkByName("wire")
	require.NoError(c.t, err)
	require.NoError(c.t, h.LinkSetMaster(l, br))
	nstest.Forward(c.t, n.ns)
	c.nodes = append(c.nodes, n)
	return n
}

func (c *cluster) peers() []peer.Peer {
	var all []peer.Peer
	for _, n := range c.nodes {
		all = append(all, n.Peer)
	}
	return all
}

// up makes an overlay on every node and applies the whole list.
func (c *cluster) up(e overlay.Encap, with ...func(*overlay.Options)) {
	c.t.Helper()
	for _, n := range c.nodes {
		n.open(c.t, e, with...)
		require.NoError(c.t, n.net.Set(c.t.Context(), c.peers()), "node %s", n.Name)
	}
}

// keys publishes the WireGuard keys of the nodes.
func (c *cluster) keys(e overlay.Encap) {
	c.t.Helper()
	if _, ok := e.(overlay.WireGuard); !ok {
		return
	}
	for _, n := range c.nodes {
		k, err := overlay.WireGuard{KeyDir: n.dir}.PublicKey("pods")
		require.NoError(c.t, err)
		n.V4.PublicKey, n.V6.PublicKey = k, k
	}
}

func (n *node) options(with ...func(*overlay.Options)) overlay.Options {
	o := overlay.Options{NS: n.ns, Network: "pods", Node: n.Peer, Prefixes: prefixes, StateDir: n.dir}
	for _, f := range with {
		f(&o)
	}
	return o
}

func (n *node) open(t testing.TB, e overlay.Encap, with ...func(*overlay.Options)) {
	t.Helper()
	if w, ok := e.(overlay.WireGuard); ok {
		w.KeyDir = n.dir
		e = w
	}
	net, err := overlay.New(n.options(with...), e)
	require.NoError(t, err)
	n.net = net
}

// addPods attaches two pods, with the MTU that the overlay gives them.
func (c *cluster) addPods() {
	c.t.Helper()
	for _, n := range c.nodes {
		for len(n.pods) < 2 {
			n.addPod(c.t)
		}
	}
}

func (n *node) addPod(t testing.TB) pod {
	t.Helper()
	i := len(n.pods) + 1
	r4, r6 := n.Pods[0].Addr().As4(), n.Pods[1].Addr().As16()
	r4[3], r6[15] = byte(1+i), byte(1+i)
	p := pod{ns: nstest.New(t), v4: netip.AddrFrom4(r4), v6: netip.AddrFrom16(r6), host: fmt.Sprintf("pod%d", i)}
	mtu := n.net.MTU(peer.Peer{})
	nstest.Link(t, nstest.End{NS: n.ns, Name: p.host, MTU: mtu, Addrs: []string{"169.254.1.1/32", "fe80::1/128"}},
		nstest.End{NS: p.ns, Name: "eth0", MTU: mtu, Addrs: []string{p.v4.String() + "/32", p.v6.String() + "/128"}})
	ip(t, p.ns, "route add default via 169.254.1.1 dev eth0 onlink")
	ip(t, p.ns, "-6 route add default via fe80::1 dev eth0")
	ip(t, n.ns, "route add "+p.v4.String()+" dev "+p.host)
	ip(t, n.ns, "-6 route add "+p.v6.String()+" dev "+p.host)
	n.pods = append(n.pods, p)
	return p
}

// ip runs ip(8) in the namespace.
func ip(t testing.TB, ns *netns.NS, args string) string {
	t.Helper()
	out, err := run(ns, "ip", args)
	require.NoError(t, err, "ip %s: %s", args, out)
	return out
}

func run(ns *netns.NS, program, args string) (string, error) {
	var out, errs strings.Builder
	err := ns.Do(func() error {
		cmd := exec.Command(program, strings.Fields(args)...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		return cmd.Run()
	})
	if err != nil {
		return out.String() + errs.String(), err
	}
	return out.String(), nil // without what ip says of a namespace that ends while it looks
}

// reach fails unless every pod and node reaches every pod of every node over both families.
func (c *cluster) reach(families ...inet.Family) {
	c.t.Helper()
	for _, from := range c.nodes {
		for _, to := range c.nodes {
			for _, dst := range to.pods {
				for i, src := range from.pods {
					if src.ns == dst.ns {
						continue
					}
					c.pings(src.ns, dst, fmt.Sprintf("pod %s%d to %s", from.Name, i, to.Name), families)
				}
				if from != to {
					c.pings(from.ns, dst, fmt.Sprintf("node %s to pod of %s", from.Name, to.Name), families)
				}
			}
		}
	}
}

func (c *cluster) pings(from *netns.NS, to pod, what string, families []inet.Family) {
	c.t.Helper()
	for _, a := range to.addrs(families) {
		require.NoError(c.t, nstest.Ping(c.t.Context(), from, a, ping.Options{Timeout: patience}), what)
	}
}

func (p pod) addrs(families []inet.Family) []netip.Addr {
	if len(families) == 0 {
		families = inet.Families[:]
	}
	var all []netip.Addr
	for _, f := range families {
		if f == inet.IPv4 {
			all = append(all, p.v4)
		} else {
			all = append(all, p.v6)
		}
	}
	return all
}

// streams carries some megabytes from each node's first pod to the next node's, and probes the path's MTU.
func (c *cluster) streams(families ...inet.Family) {
	c.t.Helper()
	for i, from := range c.nodes {
		to := c.nodes[(i+1)%len(c.nodes)]
		mtu := from.net.MTU(to.Peer)
		require.NotZero(c.t, mtu)
		for _, a := range to.pods[0].addrs(families) {
			at := nstest.Serve(c.t, to.pods[0].ns, netip.AddrPortFrom(a, 0))
			require.NoError(c.t, nstest.Stream(c.t.Context(), from.pods[0].ns, at, 4<<20), "%s to %s", from.Name, to.Name)
			probe := ping.Options{NoFrag: true, Timeout: patience, Size: ping.Payload(mtu, a)}
			require.NoError(c.t, nstest.Ping(c.t.Context(), from.pods[0].ns, a, probe), "%d bytes", mtu)
			probe.Size++
			require.ErrorContains(c.t, nstest.Ping(c.t.Context(), from.pods[0].ns, a, probe), "message too long", "%d bytes", mtu+1)
		}
	}
}

// dumps are the states of all nodes, without what the kernel adds by itself and in its own time: link-local addresses,
// multicast groups, the routes to local addresses.
func (c *cluster) dumps() []string {
	var all []string
	for _, n := range c.nodes {
		var b strings.Builder
		for l := range strings.Lines(nstest.DumpLinks(n.ns)) {
			if !noise.MatchString(l) {
				b.WriteString(l)
			}
		}
		all = append(all, b.String())
	}
	return all
}

// noise are also the devices that appear in every namespace when a module is loaded for the first time.
var noise = regexp.MustCompile(`^link \d+ (tunl0|sit0|gre0|gretap0|erspan0|ip6tnl0|ip6gre0|ip_vti0|ip6_vti0) |fe80::|^route table 255|^fdb (33:33|01:00:5e):`)

// same fails if the state of a node is not what it was, and shows the lines that differ.
func same(t testing.TB, before, after []string, what string) {
	t.Helper()
	for i := range before {
		gone, came := lines(before[i], after[i]), lines(after[i], before[i])
		require.Empty(t, gone, "%s: node %d lost this", what, i)
		require.Empty(t, came, "%s: node %d has this now", what, i)
	}
}

// lines are those of a that b lacks.
func lines(a, b string) []string {
	have := map[string]bool{}
	for l := range strings.Lines(b) {
		have[l] = true
	}
	var all []string
	for l := range strings.Lines(a) {
		if !have[l] {
			all = append(all, l)
		}
	}
	return all
}

// watch returns what the kernel announces of links, addresses, routes and neighbours from now on.
func watch(t *testing.T, ns *netns.NS) func() []string {
	t.Helper()
	require.Eventually(t, func() bool { // the kernel brings IPv6 addresses into use in its own time
		for a := range strings.FieldsSeq(ip(t, ns, "-6 -br addr show scope global")) {
			local, _, isPrefix := strings.Cut(a, "/")
			if isPrefix && !strings.Contains(ip(t, ns, "-6 route show table local"), "local "+local+" ") {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	var cmd *exec.Cmd
	var out bytes.Buffer
	require.NoError(t, ns.Do(func() error {
		cmd = exec.Command("ip", "monitor", "link", "address", "route", "neigh")
		cmd.Stdout = &out
		return cmd.Start()
	}))
	time.Sleep(100 * time.Millisecond) // until it listens
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return func() []string {
		time.Sleep(100 * time.Millisecond)
		stop()
		var all []string
		for l := range strings.Lines(out.String()) {
			if !strings.Contains(l, " dev eth0 lladdr") && !strings.Contains(l, "PROBE") { // resolved by the kernel itself
				all = append(all, l)
			}
		}
		return all
	}
}

var index = regexp.MustCompile(`(?m)^link \d+ `)

// ours are dumps without the indices of links, which are new when a device is.
func ours(dumps []string) []string {
	var all []string
	for _, d := range dumps {
		all = append(all, index.ReplaceAllString(d, "link N "))
	}
	return all
}

func countLines(s string) int { return strings.Count(s, "\n") }

// wgDevice reads a WireGuard device.
func wgDevice(t testing.TB, ns *netns.NS, name string) *wgtypes.Device {
	t.Helper()
	var d *wgtypes.Device
	require.NoError(t, ns.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		d, err = c.Device(name)
		return err
	}))
	return d
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
