package ptp_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/ptp"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestTheNodeAndThePodAreWhatTheTableSays(t *testing.T) {
	t.Parallel()
	cnitest.Table{Plugin: ptp.Plugin{}}.Run(t, filepath.Join("testdata", "node.txt"))
}

// lab is a node with an outside that knows no way back to pods.
type lab struct {
	t             *testing.T
	node, outside *netns.NS
	dir           string
	plugin        cni.Plugin
	path          string // CNI_PATH
}

func newLab(t *testing.T) *lab {
	t.Helper()
	nstest.NeedRoot(t)
	w := &lab{t: t, node: nstest.New(t), outside: nstest.New(t), dir: t.TempDir(), plugin: ptp.Plugin{}, path: "/nowhere"}
	nstest.Link(t, nstest.End{NS: w.node, Name: "uplink", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		nstest.End{NS: w.outside, Name: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	nstest.Settle(t, w.node)
	return w
}

func (w *lab) conf(more ...string) string {
	return `{"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "dataDir": "` + w.dir +
		`", "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}` +
		strings.Join(append([]string{""}, more...), ", ") + `}`
}

// call passes a result along that it is given.
func (w *lab) call(verb cni.Verb, id string, pod *netns.NS, conf string, prev ...byte) cnitest.Answer {
	w.t.Helper()
	a, err := cnitest.Request{Verb: verb, ContainerID: id, Pod: pod, Path: w.path, Config: conf, Prev: prev}.Run(w.t.Context(), w.node, w.plugin,
		cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(w.t, err)
	return a
}

// gc is the status of a GC with these containers left.
func (w *lab) gc(left ...string) int {
	w.t.Helper()
	valid := []cni.Attachment{}
	for _, id := range left {
		valid = append(valid, cni.Attachment{ContainerID: id, IfName: "eth0"})
	}
	a, err := cnitest.Request{Verb: cni.GC, Config: w.conf(), Valid: valid}.Run(w.t.Context(), w.node, w.plugin, cni.Delegates{"host-local": hostlocal.Plugin{}})
	require.NoError(w.t, err)
	return a.Status
}

func (w *lab) add(id, conf string) (*netns.NS, *cni.Result, []byte) {
	w.t.Helper()
	pod := nstest.New(w.t)
	a := w.call(cni.ADD, id, pod, conf)
	require.Zero(w.t, a.Status, "%s", a.Out)
	res, err := cni.ParseResult(a.Out)
	require.NoError(w.t, err)
	return pod, res, a.Out
}

func reach(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}), "ping %s", to)
}

func TestPodsReachEachOtherTheNodeAndTheOutside(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := newLab(t)
	before := nstest.Dump(w.node)
	a, resA, checkA := w.add("a", w.conf())
	b, resB, checkB := w.add("b", w.conf())
	for i, outside := range []string{"192.0.2.2", "2001:db8::2"} {
		reach(t, a, resB.IPs[i].Address.Addr())
		reach(t, b, resA.IPs[i].Address.Addr())
		reach(t, w.node, resA.IPs[i].Address.Addr())
		reach(t, a, resA.IPs[i].Gateway)
		reach(t, b, netip.MustParseAddr(outside))
	}
	for id, prev := range map[string][]byte{"a": checkA, "b": checkB} {
		pod := map[string]*netns.NS{"a": a, "b": b}[id]
		out := w.call(cni.CHECK, id, pod, w.conf(), prev...)
		require.Zero(t, out.Status, "%s", out.Out)
		out = w.call(cni.ADD, id, pod, w.conf())
		require.Equal(t, 1, out.Status, "the same attachment once more")
		out = w.call(cni.CHECK, id, pod, w.conf(), prev...)
		require.Zero(t, out.Status, "%s", out.Out)
	}
	require.Zero(t, w.call(cni.STATUS, "", nil, w.conf()).Status)
	require.Zero(t, w.call(cni.DEL, "a", nil, w.conf()).Status, "without its namespace")
	require.Zero(t, w.call(cni.DEL, "a", a, w.conf()).Status, "once more")
	require.Zero(t, w.gc("b"))
	reach(t, b, netip.MustParseAddr("192.0.2.2"))
	require.Zero(t, w.gc())
	require.Equal(t, marks(before), marks(nstest.Dump(w.node)), "nothing is left but forwarding")
	leases, err := filepath.Glob(filepath.Join(w.dir, "net", "[0-9f]*"))
	require.NoError(t, err)
	require.Empty(t, leases)
}

// marks are what a plugin makes: links, addresses, routes, and lines of the firewall that name a network or a container.
// Forwarding and the tables that iptables keeps when it was asked once stay.
func marks(dump string) []string {
	return slices.DeleteFunc(strings.Split(dump, "\n"), func(line string) bool {
		kind, _, _ := strings.Cut(line, " ")
		return kind != "link" && kind != "address" && !strings.HasPrefix(line, "route table 254") && !strings.Contains(line, "net") && !strings.Contains(line, "CNI")
	})
}

func TestCHECKNamesWhateverIsNotAsADDLeftIt(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := newLab(t)
	for what, harm := range map[string]func(pod *netns.NS, host string){
		"is missing on eth0":             func(pod *netns.NS, _ string) { removeAddr(t, pod, "eth0", "10.7.0.") },
		"address 10.7.0.1/32 is missing": func(_ *netns.NS, host string) { removeAddr(t, w.node, host, "10.7.0.1/32") },
		"is down":                        func(_ *netns.NS, host string) { down(t, w.node, host) },
		"the route to 10.7.0.":           func(_ *netns.NS, host string) { removeRoutes(t, w.node, host) },
		"via 10.7.0.1 on eth0":           func(pod *netns.NS, _ string) { removeRoutes(t, pod, "eth0") },
		"net/ipv4/ip_forward is 0":       func(*netns.NS, string) { nstest.Sysctl(t, w.node, "net/ipv4/ip_forward", "0") },
	} {
		id := "c" + strings.ReplaceAll(strings.ReplaceAll(what[:6], " ", ""), "/", "")
		pod, res, check := w.add(id, w.conf())
		require.Zero(t, w.call(cni.CHECK, id, pod, w.conf(), check...).Status)
		harm(pod, res.Interfaces[0].Name)
		a := w.call(cni.CHECK, id, pod, w.conf(), check...)
		require.Equal(t, 1, a.Status, what)
		require.Contains(t, string(a.Out), what)
		require.Zero(t, w.call(cni.DEL, id, pod, w.conf()).Status)
	}
}

func down(t *testing.T, ns *netns.NS, name string) {
	t.Helper()
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetDown(l))
}

func removeAddr(t *testing.T, ns *netns.NS, name, prefix string) {
	t.Helper()
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	addrs, err := h.AddrList(l, netlink.FAMILY_V4)
	require.NoError(t, err)
	i := slices.IndexFunc(addrs, func(a netlink.Addr) bool { return strings.HasPrefix(a.IPNet.String(), prefix) })
	require.GreaterOrEqual(t, i, 0, "%v", addrs)
	require.NoError(t, h.AddrDel(l, &addrs[i]))
}

func removeRoutes(t *testing.T, ns *netns.NS, name string) {
	t.Helper()
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	routes, err := h.RouteList(l, netlink.FAMILY_V4)
	require.NoError(t, err)
	require.NotEmpty(t, routes)
	for _, r := range slices.Backward(routes) {
		require.NoError(t, h.RouteDel(&r))
	}
}

func TestAnADDThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	before := nstest.Dump(w.node)
	for bad, want := range map[string]string{
		`"mtu": 1000`: `"mtu\" is 1000`,
		`"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}`: `runtimeConfig.mac`,
		`"ipMasqBackend": "pf"`:                         `ipMasqBackend`,
		`"ipMasqExcept": ["10.0.0.1/8"]`:                `ipMasqExcept`,
		`"mtu": "big"`:                                  `"mtu\" is a JSON string`,
	} {
		a := w.call(cni.ADD, "a", nstest.New(t), w.conf(bad))
		require.Equal(t, 1, a.Status)
		require.Contains(t, string(a.Out), strings.TrimPrefix(want, `"`))
		require.Contains(t, string(a.Out), `"code":7`)
	}
	require.Equal(t, before, nstest.Dump(w.node))
	_, err := os.Stat(filepath.Join(w.dir, "net"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOfNextHopsTheGatewayAloneIsOnTheWire(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	before := nstest.Dump(w.node)
	routes := func(list string) string {
		return strings.Replace(w.conf(), `[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]`, list, 1)
	}
	a := w.call(cni.ADD, "a", nstest.New(t), routes(`[{"dst": "192.0.2.0/24", "gw": "10.7.0.9"}]`))
	require.Equal(t, 1, a.Status)
	require.Contains(t, string(a.Out), `"code":7`)
	require.Contains(t, string(a.Out), "the route to 192.0.2.0/24 leads to 10.7.0.9, and only the gateway is on the wire")
	require.Equal(t, marks(before), marks(nstest.Dump(w.node)))
	pod, _, check := w.add("b", routes(`[{"dst": "192.0.2.0/24", "gw": "10.7.0.1"}, {"dst": "10.7.0.0/24"}, {"dst": "fd00:7::/64"}, {"dst": "::/0"}]`))
	reach(t, pod, netip.MustParseAddr("2001:db8::2"))
	a = w.call(cni.CHECK, "b", pod, w.conf(), check...)
	require.Zero(t, a.Status, "%s", a.Out)
}

func TestIPv6ThatIsSwitchedOffIsNamed(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	nstest.Sysctl(t, w.node, "net/ipv6/conf/default/disable_ipv6", "1")
	before := nstest.Dump(w.node)
	a := w.call(cni.ADD, "a", nstest.New(t), w.conf())
	require.Equal(t, 1, a.Status)
	require.Regexp(t, `IPv6 is switched off on veth.*: set sysctl net/ipv6/conf/veth.*/disable_ipv6 to 0`, string(a.Out))
	require.Equal(t, marks(before), marks(nstest.Dump(w.node)))
}

func TestAnInterfaceOfAnotherPluginStays(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	pod := nstest.New(t)
	nstest.Link(t, nstest.End{NS: w.node, Name: "cali0"}, nstest.End{NS: pod, Name: "eth0"})
	require.Equal(t, 1, w.call(cni.ADD, "a", pod, w.conf()).Status)
	require.Zero(t, w.call(cni.DEL, "a", pod, w.conf()).Status)
	_, err := nstest.Netlink(t, w.node).LinkByName("cali0")
	require.NoError(t, err)
}

func TestTwoNetworksWithTheSameAddressesAreNamed(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := newLab(t)
	w.add("a", w.conf())
	other := strings.Replace(w.conf(), `"name": "net"`, `"name": "other"`, 1)
	a := w.call(cni.ADD, "b", nstest.New(t), other)
	require.Zero(t, a.Status, "%s", a.Out)
	require.Contains(t, a.Err, `networks "other" and "net" hand out the same addresses on this node, such as 10.7.0.2`)
}

// executed is the program ptp in CNI_PATH.
type executed struct{}

func (executed) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	p, err := r.Delegate("ptp")
	if err != nil {
		return nil, err
	}
	return p.Add(ctx, r)
}

func (executed) Del(ctx context.Context, r *cni.Request) error {
	p, err := r.Delegate("ptp")
	if err != nil {
		return err
	}
	return p.Del(ctx, r)
}

func (executed) Check(ctx context.Context, r *cni.Request) error {
	p, err := r.Delegate("ptp")
	if err != nil {
		return err
	}
	return p.Check(ctx, r)
}

func (executed) Status(context.Context, *cni.Request) error { return nil }
func (executed) GC(context.Context, *cni.Request) error     { return nil }

func TestAPodOfTheReferenceIsCheckedAndDeletedAndOursByTheReference(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	dir, err := reference.Build("ptp", "host-local")
	require.NoError(t, err)
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			if backend == "iptables" {
				nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
			}
			w := newLab(t)
			before := nstest.Dump(w.node)
			conf := w.conf(`"ipMasqBackend": "` + backend + `"`)
			ours := w.plugin
			theirs := executed{}
			w.path = dir
			w.plugin = theirs
			pod, res, check := w.add("a", conf)
			w.plugin, w.path = ours, "/nowhere"
			reach(t, pod, netip.MustParseAddr("192.0.2.2"))
			require.Equal(t, "10.7.0.2/24", res.IPs[0].Address.String())
			a := w.call(cni.CHECK, "a", pod, conf, check...)
			require.Zero(t, a.Status, "%s", a.Out)
			require.Zero(t, w.call(cni.DEL, "a", pod, conf, check...).Status)
			require.Zero(t, w.gc())
			require.Equal(t, marks(before), marks(nstest.Dump(w.node)))

			pod, _, check = w.add("b", conf)
			w.plugin, w.path = theirs, dir
			require.Zero(t, w.call(cni.CHECK, "b", pod, conf, check...).Status)
			require.Zero(t, w.call(cni.DEL, "b", pod, conf, check...).Status)
			leases, err := filepath.Glob(filepath.Join(w.dir, "net", "[0-9f]*"))
			require.NoError(t, err)
			require.Empty(t, leases)
		})
	}
}
