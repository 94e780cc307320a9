package bridge_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
)

func TestCHECKFailsWhenAnObjectOfOursIsMissingOrWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says  string
		spoil func(w *world, a *attachment, res *cni.Result)
	}{
		"the pod's address":      {"address 10.1.2.3/24 is missing on eth0", func(w *world, a *attachment, res *cni.Result) { delAddr(w, a, "10.1.2.3/24") }},
		"the pod's IPv6 address": {"address fd00:1:2::3/64 is missing on eth0", func(w *world, a *attachment, res *cni.Result) { delAddr(w, a, "fd00:1:2::3/64") }},
		"the default route":      {`route to 0.0.0.0/0 via 10.1.2.1 on eth0`, func(w *world, a *attachment, res *cni.Result) { delRoute(w, a, netlink.FAMILY_V4) }},
		"the IPv6 default route": {`route to ::/0 via fd00:1:2::1 on eth0`, func(w *world, a *attachment, res *cni.Result) { delRoute(w, a, netlink.FAMILY_V6) }},
		"the interface":          {`interface eth0 in`, func(w *world, a *attachment, res *cni.Result) { delLink(w, a.pod, "eth0") }},
		"the interface is down":  {`is down`, func(w *world, a *attachment, res *cni.Result) { down(w, a) }},
		"the interface's MAC":    {`prevResult says`, func(w *world, a *attachment, res *cni.Result) { setMAC(w, a) }},
		"the bridge":             {`find link br0`, func(w *world, a *attachment, res *cni.Result) { delLink(w, w.node, "br0") }},
		"the port's bridge":      {`is not a port of bridge br0`, func(w *world, a *attachment, res *cni.Result) { host(w, res, (*netlink.Handle).LinkSetNoMaster) }},
		"the port is down":       {`is down`, func(w *world, a *attachment, res *cni.Result) { host(w, res, (*netlink.Handle).LinkSetDown) }},
		"the port's MTU": {`has MTU 1300; want 1400`, func(w *world, a *attachment, res *cni.Result) {
			host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) })
		}},
		"hairpin mode": {`hairpin mode false; want true`, func(w *world, a *attachment, res *cni.Result) {
			host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetHairpin(l, false) })
		}},
		"port isolation": {`port isolation false; want true`, func(w *world, a *attachment, res *cni.Result) {
			host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetIsolated(l, false) })
		}},
		"the alias": {`has the alias`, func(w *world, a *attachment, res *cni.Result) {
			host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetAlias(l, "mine") })
		}},
		"the gateway address": {`br0 does not have the gateway address 10.1.2.1/24`, func(w *world, a *attachment, res *cni.Result) { delGateway(w, "10.1.2.1/24") }},
		"IPv4 forwarding":     {`forwarding is off`, func(w *world, a *attachment, res *cni.Result) { nstest.Sysctl(w.t, w.node, "net/ipv4/ip_forward", "0") }},
		"IPv6 forwarding": {`forwarding is off`, func(w *world, a *attachment, res *cni.Result) {
			nstest.Sysctl(w.t, w.node, "net/ipv6/conf/all/forwarding", "0")
		}},
		"the SNAT rule": {`SNAT`, func(w *world, a *attachment, res *cni.Result) { flush(w) }},
		"the lease": {`10.1.2.3`, func(w *world, a *attachment, res *cni.Result) {
			require.NoError(w.t, os.Remove(filepath.Join(w.dir, "testnet", "10.1.2.3")))
		}},
		"the lease is another's": {`other`, func(w *world, a *attachment, res *cni.Result) {
			require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, "testnet", "10.1.2.3"), []byte("other\r\neth0"), 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conf := w.conf(map[string]any{"mtu": 1400, "hairpinMode": true, "portIsolation": true})
			w.settled(conf)
			a := w.pod("a")
			res := a.add(conf)
			require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
			c.spoil(w, a, res)
			ans := a.check(conf)
			require.Equal(t, 1, ans.status)
			require.Contains(t, ans.msg(), c.says)
			require.NotEqual(t, cni.ErrInternal, ans.code(), "%s", ans.out)
		})
	}
}

func host(w *world, res *cni.Result, change func(*netlink.Handle, netlink.Link) error) {
	w.t.Helper()
	h := nstest.Netlink(w.t, w.node)
	l, err := h.LinkByName(res.Interfaces[1].Name)
	require.NoError(w.t, err)
	require.NoError(w.t, change(h, l))
}

func inPod(w *world, a *attachment, change func(*netlink.Handle, netlink.Link) error) {
	w.t.Helper()
	h := nstest.Netlink(w.t, a.pod)
	l, err := h.LinkByName("eth0")
	require.NoError(w.t, err)
	require.NoError(w.t, change(h, l))
}

func delAddr(w *world, a *attachment, s string) {
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error {
		addr, err := netlink.ParseAddr(s)
		require.NoError(w.t, err)
		return h.AddrDel(l, addr)
	})
}

func delRoute(w *world, a *attachment, family int) {
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error {
		routes, err := h.RouteList(l, family)
		require.NoError(w.t, err)
		for _, r := range routes {
			if r.Gw != nil {
				return h.RouteDel(&r)
			}
		}
		return os.ErrNotExist
	})
}

func down(w *world, a *attachment) { inPod(w, a, (*netlink.Handle).LinkSetDown) }

func setMAC(w *world, a *attachment) {
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	})
}

func delGateway(w *world, s string) {
	h := nstest.Netlink(w.t, w.node)
	l, err := h.LinkByName("br0")
	require.NoError(w.t, err)
	addr, err := netlink.ParseAddr(s)
	require.NoError(w.t, err)
	require.NoError(w.t, h.AddrDel(l, addr))
}

func TestCHECKPassesAfterChainedPluginsChangedWhatIsTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	w.pod("b").add(conf)
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) })
	inPod(w, a, (*netlink.Handle).SetPromiscOn)
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetTxQLen(l, 77) })
	nstest.Sysctl(t, a.pod, "net/ipv4/conf/eth0/accept_local", "1")
	// A source-based routing plugin moves the default route to a table of its own.
	inPod(w, a, func(h *netlink.Handle, l netlink.Link) error {
		routes, err := h.RouteList(l, netlink.FAMILY_V4)
		require.NoError(t, err)
		for _, r := range routes {
			if r.Gw != nil {
				require.NoError(t, h.RouteDel(&r))
				r.Table = 100
				return h.RouteAdd(&r)
			}
		}
		return os.ErrNotExist
	})
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	// The tuning plugin changes the MAC and says so in the result.
	setMAC(w, a)
	require.Equal(t, 1, a.check(conf).status)
	res, err := cni.ParseResult(a.prev)
	require.NoError(t, err)
	res.Interfaces[2].MAC = "02:00:00:00:00:09"
	a.prev, err = res.Encode("1.1.0")
	require.NoError(t, err)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
}

func flush(w *world) {
	w.t.Helper()
	require.NoError(w.t, w.node.Do(func() error { return run("nft", "flush", "ruleset") }))
}

func TestAFlushedRuleIsPutBackByTheNextADD(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	flush(w)
	require.Equal(t, 1, a.check(conf).status)
	w.pod("b").add(conf)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
}

func TestAPodThatForgesItsAddressIsCutOff(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFTBridge)
	w := newWorld(t)
	conf := w.conf(map[string]any{"macspoofchk": true})
	clean := w.settled(conf)
	a := w.pod("a")
	res := a.add(conf)
	reach(t, a.pod, res.IPs[0].Gateway)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	setMAC(w, a)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.Error(t, nstest.Ping(ctx, a.pod, res.IPs[0].Gateway, ping.Options{}))
	flush(w)
	require.Equal(t, 1, a.check(conf).status)
	a.del(conf)
	b := w.pod("b")
	b.add(conf)
	b.del(conf)
	require.Equal(t, clean, w.dump())
}

// together is the result of a chain of which each attachment made one interface.
func together(t *testing.T, parts ...*cni.Result) []byte {
	t.Helper()
	var all cni.Result
	for _, p := range parts {
		for _, ip := range p.IPs {
			ip.Interface += len(all.Interfaces)
			all.IPs = append(all.IPs, ip)
		}
		all.Interfaces = append(all.Interfaces, p.Interfaces...)
		all.Routes = append(all.Routes, p.Routes...)
	}
	out, err := all.Encode("1.1.0")
	require.NoError(t, err)
	return out
}

func TestCHECKOfOneOfTwoInterfacesFindsTheRoutesOfBoth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.conf(nil)
	second := w.conf(map[string]any{"name": "other", "bridge": "br1", "isDefaultGateway": false, "ipam": map[string]any{
		"type": "host-local", "dataDir": w.dir, "ranges": [][]map[string]any{{{"subnet": "10.5.0.0/24"}}, {{"subnet": "fd00:5::/64"}}},
		"routes": []map[string]any{{"dst": "198.51.100.0/24"}, {"dst": "2001:db8:51::/48", "gw": "fd00:5::1"}}}})
	eth0 := w.pod("a")
	eth1 := &attachment{w: w, id: "a", name: "eth1", pod: eth0.pod}
	all := together(t, eth0.add(first), eth1.add(second))
	eth0.prev, eth1.prev = all, all
	require.Zero(t, eth0.check(first).status, "%s", eth0.check(first).out)
	require.Zero(t, eth1.check(second).status, "%s", eth1.check(second).out)

	h := nstest.Netlink(t, eth0.pod)
	l, err := h.LinkByName("eth1")
	require.NoError(t, err)
	_, dst, err := net.ParseCIDR("198.51.100.0/24")
	require.NoError(t, err)
	require.NoError(t, h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst}))
	for _, ans := range []answer{eth0.check(first), eth1.check(second)} {
		require.Equal(t, 1, ans.status)
		require.Contains(t, ans.msg(), "the route to 198.51.100.0/24 on ")
		require.Contains(t, ans.msg(), "eth0")
		require.Contains(t, ans.msg(), "eth1")
	}
}

func TestCHECKNamesEveryDifferenceThoseByWhichPacketsAreLostFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"hairpinMode": true})
	w.settled(conf)
	a := w.pod("a")
	res := a.add(conf)
	require.NoError(t, os.Remove(filepath.Join(w.dir, "testnet", "10.1.2.3")))
	host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetHairpin(l, false) })
	host(w, res, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetAlias(l, "mine") })
	nstest.Sysctl(t, w.node, "net/ipv4/ip_forward", "0")
	delAddr(w, a, "10.1.2.3/24") // and with it the routes over its gateway
	delAddr(w, a, "fd00:1:2::3/64")
	host(w, res, (*netlink.Handle).LinkSetNoMaster)
	flush(w)
	ans := a.check(conf)
	require.Equal(t, cni.ErrIO, ans.code(), "%s", ans.out)
	require.NotContains(t, ans.msg(), "\n")
	at := 0
	for _, says := range []string{"is not a port of bridge br0", "addresses 10.1.2.3/24, fd00:1:2::3/64 are missing on eth0", "route to 0.0.0.0/0 via 10.1.2.1 on eth0",
		"IPv4: forwarding is off", "10.1.2.3 is leased to nobody", "SNAT", "hairpin mode false; want true", "has the alias"} {
		i := strings.Index(ans.msg(), says)
		require.Greater(t, i, at-1, "%q after %q in: %s", says, ans.msg()[:at], ans.msg())
		at = i + len(says)
	}
}
