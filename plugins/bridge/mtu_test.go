package bridge_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func (w *world) mtu(link string) int {
	w.t.Helper()
	l, err := nstest.Netlink(w.t, w.node).LinkByName(link)
	require.NoError(w.t, err)
	return l.Attrs().MTU
}

func linkOf(t *testing.T, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l
}

// narrow is a second network on the bridge of the first, too narrow for IPv6.
func (w *world) narrow() string {
	return w.conf(map[string]any{"name": "narrow", "mtu": 1000,
		"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.1.3.0/24"}})
}

func TestANarrowNetworkOnTheSameBridgeLeavesIPv6ToTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wide, narrow := w.conf(nil), w.narrow()
	a := w.pod("a")
	alive := func() {
		t.Helper()
		reach(t, a.pod, outside6)
		require.Zero(t, a.check(wide).status, "%s", a.check(wide).out)
		require.Equal(t, 1500, w.mtu("br0"))
	}
	a.add(wide)
	alive()
	b, c := w.pod("b"), w.pod("c")
	res := b.add(narrow)
	alive()
	require.Equal(t, []int{1500, 1500, 1000}, []int{res.Interfaces[0].MTU, res.Interfaces[1].MTU, res.Interfaces[2].MTU}, "what the result says is in the kernel")
	require.Equal(t, 1500, w.mtu(res.Interfaces[1].Name))
	require.Equal(t, 1000, linkOf(t, nstest.Netlink(t, b.pod), "eth0").Attrs().MTU)
	require.Zero(t, b.check(narrow).status, "%s", b.check(narrow).out)
	reach(t, b.pod, outside4)
	c.add(narrow)
	alive()
	b.del(narrow)
	alive()
	c.del(narrow)
	alive()
}

func TestIPv6WorksOnABridgeThatANarrowNetworkMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	narrow := w.narrow()
	b := w.pod("b")
	b.add(narrow)
	require.Equal(t, 1000, w.mtu("br0"))
	require.Zero(t, w.call(cni.STATUS, "", "", "", "", w.conf(nil)).status)
	a, c := w.pod("a"), w.pod("c")
	a.add(w.conf(nil))
	reach(t, a.pod, outside6)
	require.Equal(t, 1500, w.mtu("br0"))
	c.add(narrow)
	for _, p := range []*attachment{b, c} {
		require.Zero(t, p.check(narrow).status, "%s", p.check(narrow).out)
	}
	reach(t, a.pod, outside6)
	require.Zero(t, a.check(w.conf(nil)).status, "%s", a.check(w.conf(nil)).out)

	// The kernel keeps the bridge at the least of its ports' MTUs all the same.
	lower := w.conf(map[string]any{"mtu": 1400})
	d := w.pod("d")
	d.add(lower)
	require.Equal(t, 1400, w.mtu("br0"))
	d.del(lower)
	require.Equal(t, 1500, w.mtu("br0"))
	reach(t, a.pod, outside6)
}

func TestABridgeOfSomebodyElseThatIsTooNarrowForIPv6IsLeftAloneAndNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := nstest.Netlink(t, w.node)
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: 1200, TxQLen: -1}}))
	require.NoError(t, h.LinkSetMTU(linkOf(t, h, "br0"), 1200)) // a person's own choice
	require.NoError(t, h.LinkSetUp(linkOf(t, h, "br0")))
	nstest.Settle(t, w.node)
	before := w.dump()
	for _, ans := range []answer{w.pod("a").call(cni.ADD, w.conf(nil)), w.call(cni.STATUS, "", "", "", "", w.conf(nil))} {
		require.Equal(t, cni.ErrConfig, ans.code(), "%s", ans.out)
		require.Contains(t, ans.msg(), "br0 has MTU 1200")
		require.Contains(t, ans.msg(), "ip link set br0 mtu 1280")
	}
	require.Equal(t, before, w.dump())
}

func TestAnMTUThatIPv6CannotHaveIsRefusedWithTheKeyBeforeAnythingChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.delegates["other"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("fd00:9::2/64"), Interface: cni.NoInterface}}}, nil
	}}
	before := w.dump()
	refused := func(name, conf string) {
		ans := w.pod("a").call(cni.ADD, conf)
		require.Equal(t, cni.ErrConfig, ans.code(), "%s: %s", name, ans.out)
		require.Regexp(t, `key "mtu" is 1[02]..?.?, and IPv6 .* needs at least 1280`, ans.msg(), name)
	}
	for name, conf := range map[string]string{
		"ranges":   w.conf(map[string]any{"mtu": 1279}),
		"a subnet": w.conf(map[string]any{"mtu": 1279, "ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "fd00:9::/64"}}),
		"a range":  with(w.narrow(), "runtimeConfig", map[string]any{"ipRanges": [][]map[string]any{{{"subnet": "fd00:9::/64"}}}}),
	} {
		refused(name, conf)
		require.Equal(t, before, w.dump(), name)
	}
	// Its answer comes when the bridge is there, which stays.
	refused("other IPAM", w.conf(map[string]any{"mtu": 1279, "ipam": map[string]any{"type": "other"}}))
	a := w.pod("a")
	a.add(w.conf(map[string]any{"mtu": 1280}))
	reach(t, a.pod, outside6)
}
