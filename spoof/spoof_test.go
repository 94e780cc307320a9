//go:build linux

package spoof

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func newNode(t testing.TB) *netns.NS {
	t.Helper()
	nstest.Need(t, nstest.NFTBridge)
	return nstest.New(t)
}

func port(name string, last byte) Port {
	return Port{Name: name, MAC: [6]byte{2, 0, 0, 0, 0, last}, Owner: "cniblocks/pods/" + name + "/eth0"}
}

func TestAGuardedPortPassesItsOwnAddressAlone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Bridge)
	node, pod, free := newNode(t), nstest.New(t), nstest.New(t)
	h := nstest.Netlink(t, node)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, h.LinkAdd(bridge))
	require.NoError(t, h.LinkSetUp(bridge))
	nstest.AddAddrs(t, node, "br0", "10.1.0.1/24")
	for name, ns := range map[string]*netns.NS{"guarded": pod, "free": free} {
		nstest.Link(t, nstest.End{NS: node, Name: name}, nstest.End{NS: ns, Name: "eth0"})
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, h.LinkSetMaster(l, bridge))
	}
	nstest.AddAddrs(t, pod, "eth0", "10.1.0.2/24")
	nstest.AddAddrs(t, free, "eth0", "10.1.0.3/24")
	setMAC := func(ns *netns.NS, last byte) {
		nh := nstest.Netlink(t, ns)
		l, err := nh.LinkByName("eth0")
		require.NoError(t, err)
		require.NoError(t, nh.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, last}))
		nstest.Run(t, node, "ip", "neigh", "flush", "dev", "br0") // else it answers to the address before
	}
	reaches := func(ns *netns.NS) error {
		return nstest.Ping(t.Context(), ns, netip.MustParseAddr("10.1.0.1"), ping.Options{Timeout: 5 * time.Second})
	}
	silent := func(ns *netns.NS) {
		t.Helper()
		require.Error(t, nstest.Ping(t.Context(), ns, netip.MustParseAddr("10.1.0.1"), ping.Options{Timeout: 300 * time.Millisecond}))
	}
	setMAC(pod, 1)
	require.NoError(t, Allow(t.Context(), node, port("guarded", 1)))
	require.NoError(t, Check(t.Context(), node, port("guarded", 1)))
	require.NoError(t, reaches(pod))
	require.NoError(t, reaches(free))
	setMAC(pod, 9)
	setMAC(free, 8)
	silent(pod)
	require.NoError(t, reaches(free))

	require.NoError(t, Allow(t.Context(), node, port("guarded", 9)))
	require.NoError(t, reaches(pod))
	setMAC(pod, 1)
	silent(pod)
	require.NoError(t, Revoke(t.Context(), node, "guarded"))
	require.NoError(t, reaches(pod))
}

func TestTheNFTProgramListsTheGuard(t *testing.T) {
	t.Parallel()
	ns := newNode(t)
	require.NoError(t, Allow(t.Context(), ns, port("veth1", 1)))
	require.NoError(t, Allow(t.Context(), ns, port("veth1", 1)))
	require.Equal(t, `table bridge cniblocks {
	set ports {
		type ifname
		elements = { "veth1" comment "02:00:00:00:00:01 cniblocks/pods/veth1/eth0" }
	}

	set allowed {
		type ifname . ether_addr
		elements = { "veth1" . 02:00:00:00:00:01 }
	}

	chain prerouting {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @ports iifname . ether saddr != @allowed drop comment "cniblocks"
	}
}
`, nstest.Ruleset(t, ns))
	list, err := List(t.Context(), ns)
	require.NoError(t, err)
	require.Equal(t, []Port{port("veth1", 1)}, list)
}

func TestAGuardThatIsFlushedIsReportedAndPutBack(t *testing.T) {
	t.Parallel()
	for _, harm := range []string{
		"flush ruleset", "flush chain bridge cniblocks prerouting", "flush set bridge cniblocks ports", "flush set bridge cniblocks allowed",
		"add rule bridge cniblocks prerouting iifname @ports iifname . ether saddr != @allowed drop",
		"flush chain bridge cniblocks prerouting; delete chain bridge cniblocks prerouting; delete set bridge cniblocks allowed",
	} {
		t.Run(harm, func(t *testing.T) {
			t.Parallel()
			ns := newNode(t)
			require.NoError(t, Allow(t.Context(), ns, port("veth1", 1)))
			before := nstest.Ruleset(t, ns)
			nstest.Run(t, ns, "nft", harm)
			require.ErrorContains(t, Check(t.Context(), ns, port("veth1", 1)), "veth1")
			require.NoError(t, Allow(t.Context(), ns, port("veth1", 1)))
			require.NoError(t, Check(t.Context(), ns, port("veth1", 1)))
			require.ElementsMatch(t, strings.Split(before, "\n"), strings.Split(nstest.Ruleset(t, ns), "\n"))
		})
	}
}

func TestRevokeEndsOnePortAndRetainTheDeadOnesOfANetwork(t *testing.T) {
	t.Parallel()
	ns := newNode(t)
	require.NoError(t, Revoke(t.Context(), ns, "veth1"))
	require.NoError(t, Retain(t.Context(), ns, "cniblocks/pods/", nil))
	require.Empty(t, nstest.Ruleset(t, ns))

	other := Port{Name: "veth9", MAC: [6]byte{2, 9}, Owner: "cniblocks/other/c/eth0"}
	long := Port{Name: "veth8", MAC: [6]byte{2, 8}, Owner: "cniblocks/pods/" + strings.Repeat("c", 240)}
	alive, dead, revoked := port("veth1", 1), port("veth2", 2), port("veth3", 3)
	for _, p := range []Port{other, long, alive, dead, revoked} {
		require.NoError(t, Allow(t.Context(), ns, p))
		require.NoError(t, Check(t.Context(), ns, p))
	}
	require.Contains(t, nstest.Ruleset(t, ns), "veth8")
	require.NoError(t, Revoke(t.Context(), ns, "veth3"))
	require.NoError(t, Revoke(t.Context(), ns, "veth3"))
	require.Error(t, Check(t.Context(), ns, revoked))
	for _, p := range []Port{revoked, long, dead} {
		require.NoError(t, Allow(t.Context(), ns, p))
		require.NoError(t, RevokeOf(t.Context(), ns, p.Owner[:len(p.Owner)-1]), "of none")
		require.NoError(t, Check(t.Context(), ns, p))
	}
	require.NoError(t, RevokeOf(t.Context(), ns, long.Owner))
	require.Error(t, Check(t.Context(), ns, long))
	require.NoError(t, RevokeOf(t.Context(), ns, long.Owner))
	require.NoError(t, Allow(t.Context(), ns, long))
	require.NoError(t, RevokeOf(t.Context(), ns, revoked.Owner))
	require.NoError(t, Retain(t.Context(), ns, "cniblocks/pods/", []string{alive.Owner, long.Owner}))
	for _, p := range []Port{other, long, alive} {
		require.NoError(t, Check(t.Context(), ns, p))
	}
	require.Error(t, Check(t.Context(), ns, dead))
	require.NoError(t, Retain(t.Context(), ns, "cniblocks/pods/", nil))
	list, err := List(t.Context(), ns)
	require.NoError(t, err)
	require.Equal(t, []Port{other}, list)
	require.NoError(t, Retain(t.Context(), ns, "cniblocks/other/", nil))
	require.Empty(t, nstest.Ruleset(t, ns))
}

func TestManyPortsAtOnceAreAllGuarded(t *testing.T) {
	t.Parallel()
	ns := newNode(t)
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		wg.Go(func() {
			own, err := netns.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
			if err != nil {
				errs[i] = err
				return
			}
			defer own.Close()
			errs[i] = Allow(t.Context(), own, port(fmt.Sprintf("veth%d", i), byte(i)))
			if i%2 == 0 {
				errs[i] = errors.Join(errs[i], Revoke(t.Context(), own, fmt.Sprintf("veth%d", i)))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	list, err := List(t.Context(), ns)
	require.NoError(t, err)
	require.Len(t, list, len(errs)/2)
	for _, p := range list {
		require.NoError(t, Check(t.Context(), ns, p))
	}
	require.Equal(t, 1, strings.Count(nstest.Ruleset(t, ns), " drop"))
}

func TestABadPortIsRefused(t *testing.T) {
	t.Parallel()
	ns := newNode(t)
	good := port("veth1", 1)
	for want, p := range map[string]Port{
		"port name":       {Name: "sixteencharacter", MAC: good.MAC, Owner: "o"},
		"1 to 15 bytes":   {MAC: good.MAC, Owner: "o"},
		"an interface":    {Name: "v", Owner: "o"},
		"01:00:00:00:00:": {Name: "v", MAC: [6]byte{1}, Owner: "o"},
		"no owner":        {Name: "v", MAC: good.MAC},
	} {
		require.ErrorContains(t, Allow(t.Context(), ns, p), want)
		require.ErrorContains(t, Check(t.Context(), ns, p), want)
	}
	require.Empty(t, nstest.Ruleset(t, ns))
	nstest.Run(t, ns, "nft", "add table bridge cniblocks; add chain bridge cniblocks prerouting")
	require.ErrorContains(t, Allow(t.Context(), ns, good), "nft delete table bridge cniblocks")
}
