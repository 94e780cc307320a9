//go:build linux

package runtimes_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/runtimes/internal/node"
)

// library is a runtime made of libcni, on a node of its own.
type library struct {
	*node.Node
	t    *testing.T
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	caps object
}

func newLibrary(t *testing.T, dir, conflist string) *library {
	t.Helper()
	l := &library{Node: node.New(t), t: t, cni: libcni.NewCNIConfigWithCacheDir([]string{dir}, "/var/lib/cni", nil)}
	var err error
	l.list, err = libcni.NetworkConfFromBytes([]byte(conflist))
	require.NoError(t, err)
	return l
}

// pod is a container that libcni knows.
type pod struct {
	lib *library
	ns  *netns.NS
	rt  *libcni.RuntimeConf
	ips []netip.Addr
}

func (l *library) pod(name string) *pod {
	l.t.Helper()
	path, ns := l.Pod(l.t, name)
	return &pod{lib: l, ns: ns, rt: &libcni.RuntimeConf{ContainerID: name, NetNS: path, IfName: "eth0", CapabilityArgs: l.caps}}
}

func (p *pod) add() *current.Result {
	t := p.lib.t
	t.Helper()
	var res types.Result
	require.NoError(t, p.lib.Do(func() (err error) {
		res, err = p.lib.cni.AddNetworkList(t.Context(), p.lib.list, p.rt)
		return err
	}))
	require.Equal(t, p.lib.list.CNIVersion, res.Version())
	cur, err := current.NewResultFromResult(res)
	require.NoError(t, err)
	p.ips = nil
	for _, ip := range cur.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		require.True(t, ok)
		p.ips = append(p.ips, a.Unmap())
	}
	return cur
}

func (p *pod) check() error {
	return p.lib.Do(func() error { return p.lib.cni.CheckNetworkList(p.lib.t.Context(), p.lib.list, p.rt) })
}

func (p *pod) del() {
	p.lib.t.Helper()
	require.NoError(p.lib.t, p.lib.Do(func() error {
		return p.lib.cni.DelNetworkList(p.lib.t.Context(), p.lib.list, p.rt)
	}))
}

func (l *library) status() error {
	return l.Do(func() error { return l.cni.GetStatusNetworkList(l.t.Context(), l.list) })
}

func (l *library) gc(valid ...*pod) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, p := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: p.rt.ContainerID, IfName: p.rt.IfName})
	}
	return l.Do(func() error { return l.cni.GCNetworkList(l.t.Context(), l.list, args) })
}

// settled is the trace when a first pod came and went.
func (l *library) settled() string {
	l.t.Helper()
	p := l.pod("first")
	p.add()
	p.del()
	return l.Trace(l.t)
}

// talk proves that the pods reach each other and that the node reaches them.
func talk(t *testing.T, a, b *pod) {
	t.Helper()
	require.Len(t, a.ips, 2)
	for i := range a.ips {
		reach(t, a.ns, b.ips[i])
		reach(t, b.ns, a.ips[i])
		reach(t, a.lib.Net, a.ips[i])
	}
}

func atLeast(t *testing.T, v, least string) bool {
	t.Helper()
	ok, err := version.GreaterThanOrEqualTo(v, least)
	require.NoError(t, err)
	return ok
}

var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestLibcniDrivesEveryCNIVersion(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			l := newLibrary(t, ours(t), conflistOf(object{"cniVersion": v, "name": "pods"}))
			a, b := l.pod("a"), l.pod("b")
			clean := l.settled()
			a.add()
			alone := l.Trace(t)
			b.add()
			talk(t, a, b)
			if atLeast(t, v, "0.4.0") {
				require.NoError(t, a.check())
				require.NoError(t, b.check())
			}
			if atLeast(t, v, "1.1.0") {
				require.NoError(t, l.status())
			}
			// libcni collects by DEL what it knows, and by GC what only the plugins know, from 1.1.0 on.
			require.NoError(t, l.gc(a))
			require.Equal(t, alone, l.Trace(t))
			b.add()
			b.del()
			b.del()
			require.Equal(t, alone, l.Trace(t))
			a.del()
			require.Equal(t, clean, l.Trace(t))
		})
	}
}

func TestLibcniChoosesTheHighestVersionOfAConflistThatWeShip(t *testing.T) {
	t.Parallel()
	l := newLibrary(t, ours(t), conflist("pods"))
	require.Equal(t, "1.1.0", l.list.CNIVersion)
	p := l.pod("a")
	res := p.add()
	require.Equal(t, 1500, res.Interfaces[2].Mtu)
	require.NoError(t, l.status())
	require.NoError(t, l.gc(p))
	require.NoError(t, p.check())
}

func TestGCThroughLibcniRemovesWhatTheRuntimeForgot(t *testing.T) {
	t.Parallel()
	l := newLibrary(t, ours(t), conflist("pods"))
	kept, lost := l.pod("kept"), l.pod("lost")
	l.settled()
	kept.add()
	before := l.Trace(t)
	lost.add()
	require.NoError(t, l.Do(func() error { return os.Remove("/var/lib/cni/results/pods-lost-eth0") }))
	require.NoError(t, l.gc(kept))
	require.Equal(t, before, l.Trace(t))
	require.NoError(t, kept.check())
}

// chain is what stands behind the bridge plugin in many clusters.
func chain() []object {
	return []object{
		{"type": "tuning", "mtu": 1400, "promisc": true, "sysctl": object{"net.ipv4.conf.IFNAME.log_martians": "1"},
			"capabilities": object{"mac": true}},
		{"type": "portmap", "capabilities": object{"portMappings": true}},
		{"type": "firewall", "backend": "iptables"},
	}
}

func TestCHECKPassesAndNothingIsLeftInAChainWithTheReferencesPlugins(t *testing.T) {
	t.Parallel()
	dir := with(t, "tuning", "portmap", "firewall")
	for _, v := range versions {
		if !atLeast(t, v, "0.4.0") { // the reference's firewall takes no less
			continue
		}
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			l := newLibrary(t, dir, conflistOf(object{"cniVersion": v, "name": "pods"}, chain()...))
			l.caps = object{"mac": "02:11:22:33:44:55", "portMappings": []object{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
			outside := withOutside(t, l.Node)
			a, b := l.pod("a"), l.pod("b")
			b.rt.CapabilityArgs = nil
			clean := l.settled()
			res := a.add()
			require.Equal(t, "02:11:22:33:44:55", podEnd(t, res).Mac)
			require.NoError(t, a.check())
			b.add()
			talk(t, a, b)
			for i, at := range []string{node4, node6} {
				nstest.Serve(t, a.ns, netip.AddrPortFrom(a.ips[i], 80))
				require.NoError(t, nstest.Stream(t.Context(), outside, netip.AddrPortFrom(netip.MustParseAddr(at), 8080), 100_000))
			}
			require.NoError(t, a.check())
			require.NoError(t, b.check())
			require.NoError(t, l.gc(a, b))
			require.NoError(t, a.check())
			b.del()
			a.del()
			require.Equal(t, clean, l.Trace(t))
		})
	}
}

func podEnd(t *testing.T, res *current.Result) *current.Interface {
	t.Helper()
	for _, i := range res.Interfaces {
		if i.Sandbox != "" {
			return i
		}
	}
	require.Fail(t, "no interface of the pod", "%v", res)
	return nil
}
