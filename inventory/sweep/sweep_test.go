//go:build linux

package sweep_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/inventorytest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory/sweep"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/spoof"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// plan makes a plan for a network, "" for all.
func plan(t *testing.T, w *inventorytest.World, network string) sweep.Plan {
	t.Helper()
	p, err := sweep.Make(sweep.Options{NS: w.Node, Found: w.Read(), Network: network, Disk: true, StateDir: w.RunDir})
	require.NoError(t, err)
	return p
}

// run carries a plan out and returns what was removed.
func run(t *testing.T, p sweep.Plan) (removed []string) {
	t.Helper()
	require.NoError(t, p.Run(t.Context(), func(s sweep.Step, err error) {
		require.NoError(t, err)
		removed = append(removed, s.Kind)
	}))
	return removed
}

func kept(p sweep.Plan) (all []string) {
	for _, k := range p.Kept {
		all = append(all, k.Kind+" "+k.Name+": "+k.Why)
	}
	return all
}

func TestAfterCleanupOfItsNetworkTheNodeIsAsBeforeTheFirstPod(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.NFT, nstest.NFTBridge)
			if backend == "iptables" {
				nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
			}
			w := inventorytest.New(t)
			conf := w.Conf("blue", "1", map[string]any{"ipMasqBackend": backend, "macspoofchk": true})
			w.Add(conf, "a")
			w.AddUnseen(conf, "b")
			require.NoError(t, os.Mkdir(filepath.Join(w.RunDir, "blue"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(w.RunDir, "blue", "peers.stamp"), nil, 0o600))
			require.Equal(t, []string{"pod interface", "pod interface", "spoof guards", "bridge", "SNAT", "leases", "state"},
				run(t, plan(t, w, "blue")))
			requireEmptyTables(t, w, backend)
		})
	}
}

// requireEmptyTables: iptables itself leaves the built-in chains of the tables that it once looked at.
func requireEmptyTables(t *testing.T, w *inventorytest.World, backend string) {
	t.Helper()
	if backend == "nftables" {
		w.RequireAsBefore()
		return
	}
	after := nstest.Dump(w.Node)
	require.NotContains(t, after, "cniblocks")
	require.NotContains(t, after, "CNIB-")
	require.NotContains(t, after, "veth4")
	require.NoDirExists(t, filepath.Join(w.DataDir, "blue"))
}

func TestTheTableOfSpoofGuardsGoesWithTheLastNetworkEvenIfNoPodIsLeft(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFTBridge)
	w := inventorytest.New(t)
	w.Add(w.Conf("red", "1", nil), "a")
	require.NoError(t, spoof.Allow(t.Context(), w.Node, spoof.Port{Name: "veth0", MAC: [6]byte{2, 1}, Owner: "cniblocks/blue/b/eth0"}))
	require.NoError(t, spoof.Revoke(t.Context(), w.Node, "veth0"))
	require.Empty(t, run(t, plan(t, w, "blue")), "another network may need it")
	require.Contains(t, run(t, plan(t, w, "red")), "spoof guards")
	w.RequireAsBefore()
}

func TestABridgeWhoseMakerWasKilledGoesWithTheOnlyNetwork(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("red", "1", nil), "a")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = "br0", bridge.Group
	require.NoError(t, nstest.Netlink(t, w.Node).LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	require.Empty(t, run(t, plan(t, w, "blue")), "it may be that of another network")
	run(t, plan(t, w, "red"))
	w.RequireAsBefore()
}

func TestThePlaceOfAnIndexWhoseMakerWasKilledGoesWithTheOnlyNetwork(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, ".cniblocks"), 0o700))
	require.Equal(t, []string{"leases"}, run(t, plan(t, w, "red")))
	w.RequireAsBefore()
}

func TestASecondCleanupFindsNothing(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	require.NotEmpty(t, run(t, plan(t, w, "")))
	require.Equal(t, sweep.Plan{}, plan(t, w, ""))
	require.Equal(t, sweep.Plan{}, plan(t, w, "blue"))
	w.RequireAsBefore()
}

func TestAPlanThatIsNotRunChangesNothing(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	before := nstest.Dump(w.Node)
	require.NotEmpty(t, plan(t, w, "blue").Steps)
	require.Equal(t, before, nstest.Dump(w.Node))
	w.Check(w.Conf("blue", "1", nil), "a")
}

func TestAnotherNetworkIsUntouchedAlsoOnTheSameBridge(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	shared := map[string]any{"bridge": "br0"}
	blue, red, green := w.Conf("blue", "1", shared), w.Conf("red", "2", nil), w.Conf("green", "3", map[string]any{"bridge": "br0", "macspoofchk": true})
	green = strings.Replace(green, `"isDefaultGateway":true`, `"isGateway":false`, 1)
	w.Add(blue, "a")
	w.Add(red, "b")
	w.Add(green, "c")
	p := plan(t, w, "blue")
	require.Len(t, kept(p), 1)
	require.Contains(t, kept(p)[0], "bridge br0: it has other ports: veth")
	run(t, p)
	w.Check(red, "b")
	w.Check(green, "c")
	require.NotContains(t, w.Read().Networks(), "blue-")
	require.Empty(t, w.Read().Only("blue").Attachments)

	// With the last network that used it the bridge goes, though it was made for another.
	run(t, plan(t, w, "green"))
	require.Equal(t, []string{"red"}, w.Read().OurNetworks())
	require.Len(t, w.Read().Bridges, 1)
	w.Check(red, "b")
	run(t, plan(t, w, "red"))
	w.RequireAsBefore()
}

func TestABridgeOfAnotherKeepsAllButOurAddresses(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	h := nstest.Netlink(t, w.Node)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}
	require.NoError(t, h.LinkAdd(br))
	nstest.Sysctl(t, w.Node, "net/ipv6/conf/br0/addr_gen_mode", "1") // no link-local address as soon as there is a port
	require.NoError(t, h.LinkSetUp(br))
	nstest.AddAddrs(t, w.Node, "br0", "fd00:9::1/64")
	nstest.Settle(t, w.Node)
	before := nstest.Dump(w.Node)
	conf := w.Conf("blue", "1", map[string]any{"bridge": "br0"})
	w.Add(conf, "a")
	w.Add(w.Conf("red", "2", nil), "b") // so that the addresses must be told apart
	require.Equal(t, []string{"pod interface", "address", "address", "SNAT", "leases"}, run(t, plan(t, w, "blue")))
	run(t, plan(t, w, "red"))
	require.Equal(t, before, nstest.Dump(w.Node))
}

func TestABridgeWithAPortOfAnotherStays(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	h := nstest.Netlink(t, w.Node)
	br, err := h.LinkByName("br-blue")
	require.NoError(t, err)
	nstest.Link(t, nstest.End{NS: w.Node, Name: "theirs"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	port, err := h.LinkByName("theirs")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetMaster(port, br))
	p := plan(t, w, "blue")
	run(t, p)
	require.Equal(t, []string{"leases " + filepath.Join(w.DataDir, "blue") + ": those that are not of a removed interface: theirs may hold them, and its pod was not found",
		"bridge br-blue: it has other ports: theirs"}, sorted(kept(p), "leases"))
	_, err = h.LinkByName("theirs")
	require.NoError(t, err)
	_, err = h.LinkByName("br-blue")
	require.NoError(t, err)
	leases, err := ipam.Dir{DataDir: w.DataDir, Network: "blue"}.Leases(t.Context())
	require.NoError(t, err)
	require.Empty(t, leases)
}

// sorted puts the line of that kind first.
func sorted(lines []string, kind string) []string {
	slices.SortStableFunc(lines, func(a, b string) int {
		switch {
		case strings.HasPrefix(a, kind):
			return -1
		case strings.HasPrefix(b, kind):
			return 1
		}
		return 0
	})
	return lines
}

func TestTheLeaseOfAPodThatTheReferenceAttachedStays(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	_, pod := nstest.Named(t)
	nstest.Link(t, nstest.End{NS: w.Node, Name: "vethold"}, nstest.End{NS: pod, Name: "eth0", Addrs: []string{"10.1.0.99/24"}})
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "blue", "10.1.0.99"), []byte("old\r\neth0"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "blue", "10.1.0.98"), []byte("lost\r\neth0"), 0o644))
	p := plan(t, w, "blue")
	require.Contains(t, kept(p)[0], "pod interface vethold: the reference plugin made it for container old")
	run(t, p)
	leases, err := ipam.Dir{DataDir: w.DataDir, Network: "blue"}.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.Equal(t, "old", leases[0].Owner.ContainerID)
}

func TestANetworkOfTheReferenceIsNotOurs(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, "theirs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "theirs", "10.9.0.5"), []byte("old\r\neth0"), 0o644))
	require.Equal(t, sweep.Plan{}, plan(t, w, ""))
	p := plan(t, w, "theirs")
	require.Empty(t, p.Steps)
	require.Equal(t, []string{"leases " + filepath.Join(w.DataDir, "theirs") + ": the reference plugin made them"}, kept(p))
}

func TestAfterARebootLeasesAndIndexGo(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	dir := ipam.Dir{DataDir: w.DataDir, Network: "blue", BootID: "earlier"}
	pool := ipam.Pool{{Subnet: netip.MustParsePrefix("10.1.0.0/24")}}
	_, err := ipam.Allocator{Dir: dir, Pools: []ipam.Pool{pool}}.Allocate(t.Context(), ipam.Owner{ContainerID: "a", IfName: "eth0"})
	require.NoError(t, err)
	require.Equal(t, []string{"leases"}, run(t, plan(t, w, "")))
	w.RequireAsBefore()
}

func TestInAnotherNamespaceThanTheMachinesOnlyLeasesOfRemovedInterfacesGo(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "blue", "10.1.0.98"), []byte("elsewhere\r\neth0"), 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(w.DataDir, ".cniblocks", "other"), 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(w.RunDir, "blue"), 0o700))
	p, err := sweep.Make(sweep.Options{NS: w.Node, Found: w.Read(), StateDir: w.RunDir})
	require.NoError(t, err)
	run(t, p)
	require.FileExists(t, filepath.Join(w.DataDir, "blue", "10.1.0.98"))
	require.NoFileExists(t, filepath.Join(w.DataDir, "blue", "10.1.0.2"))
	require.DirExists(t, filepath.Join(w.DataDir, ".cniblocks", "other"))
	require.DirExists(t, filepath.Join(w.RunDir, "blue"))
}

func TestASharedTunnelLosesTheNameOfTheNetworkAndGoesWithTheLast(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := inventorytest.New(t)
	h := nstest.Netlink(t, w.Node)
	vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "cb-vxlan-1"}, VxlanId: 7, Port: 4789}
	require.NoError(t, h.LinkAdd(vx))
	require.NoError(t, h.LinkSetAlias(vx, "cniblocks/pods+more"))
	require.Equal(t, []string{"share of device"}, run(t, plan(t, w, "pods")))
	l, err := h.LinkByName("cb-vxlan-1")
	require.NoError(t, err)
	require.Equal(t, "cniblocks/more", l.Attrs().Alias)
	require.Equal(t, []string{"device"}, run(t, plan(t, w, "more")))
	w.RequireAsBefore()
}

func TestOfASharedTunnelOnlyTheRoutesAndAddressesWithinTheNetworkGo(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := inventorytest.New(t)
	h := nstest.Netlink(t, w.Node)
	vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "cb-vxlan-1"}, VxlanId: 7, Port: 4789}
	require.NoError(t, h.LinkAdd(vx))
	require.NoError(t, h.LinkSetAlias(vx, "cniblocks/pods+more"))
	require.NoError(t, h.LinkSetUp(vx))
	for i, network := range []string{"pods", "more"} {
		n := byte(10 + i)
		all := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 0, 0}), 16)
		mine := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 1, 0}), 24)
		require.NoError(t, node.Write(w.Node, filepath.Join(w.RunDir, network, "node.json"), node.File{
			Self:    peer.Peer{Name: "a", Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.MustParseAddr("192.0.2.1")}}, Pods: []netip.Prefix{mine}},
			Network: peer.Network{Prefixes: []netip.Prefix{all}}}))
		require.NoError(t, link.Apply(t.Context(), w.Node, addr.Add(vx.Index, netip.PrefixFrom(mine.Addr(), 32))))
		for _, dev := range []string{"cb-vxlan-1", "uplink"} {
			l, err := h.LinkByName(dev)
			require.NoError(t, err)
			third := map[string]byte{"cb-vxlan-1": 2, "uplink": 3}[dev]
			require.NoError(t, h.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, n, third, 0), Mask: net.CIDRMask(24, 32)},
				LinkIndex: l.Attrs().Index, Protocol: 117, Scope: netlink.SCOPE_LINK}))
		}
	}
	n := w.Read()
	require.Equal(t, []string{"more", "pods"}, n.OurNetworks())
	require.Equal(t, []string{"share of device", "address", "route", "route", "state"}, run(t, plan(t, w, "pods")))
	n = w.Read()
	require.Len(t, n.Routes, 2)
	for _, r := range n.Routes {
		require.Equal(t, "more", r.Network)
	}
	require.Len(t, n.Devices[0].Addrs, 1)
	require.Equal(t, "10.11.1.0/32", n.Devices[0].Addrs[0].Prefix.String())

	// The state says that it is of this namespace, so it goes wherever this is run.
	p, err := sweep.Make(sweep.Options{NS: w.Node, Found: n, Network: "more", StateDir: w.RunDir})
	require.NoError(t, err)
	require.Equal(t, []string{"device", "route", "state"}, run(t, p))
	w.RequireAsBefore()
}

func TestDirectRoutesGoWithTheOnlyNetworkThatHasThem(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	for _, network := range []string{"pods", "more"} {
		require.NoError(t, os.Mkdir(filepath.Join(w.RunDir, network), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(w.RunDir, network, "host-gw.stamp"), nil, 0o600))
	}
	h := nstest.Netlink(t, w.Node)
	require.NoError(t, h.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 244, 2, 0), Mask: net.CIDRMask(24, 32)},
		Gw: net.IPv4(192, 0, 2, 2), Protocol: 117}))
	w.Add(w.Conf("blue", "1", nil), "a") // a network in the kernel, which has no routes
	require.NotContains(t, run(t, plan(t, w, "blue")), "route")

	w.Add(w.Conf("blue", "1", nil), "b")
	p := plan(t, w, "pods")
	require.Contains(t, kept(p)[0], "several networks route directly")
	require.Equal(t, []string{"state"}, run(t, p))
	require.Equal(t, []string{"route", "state"}, run(t, plan(t, w, "more")))
	run(t, plan(t, w, ""))
	w.RequireAsBefore()
}

func TestALinkInPlaceOfADirectoryIsNotFollowed(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	precious := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o644))
	require.NoError(t, os.Symlink(precious, filepath.Join(w.RunDir, "blue")))
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, ".cniblocks"), 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, ".cniblocks", "blue"), 0o700))
	require.NoError(t, os.Symlink(precious, filepath.Join(w.DataDir, ".cniblocks", "blue", "boot")))
	run(t, plan(t, w, "blue"))
	require.FileExists(t, filepath.Join(precious, "file"))
}

func TestAnObjectThatVanishesMeanwhileIsNoError(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	p := plan(t, w, "blue")
	run(t, plan(t, w, "blue"))
	run(t, p)
	w.RequireAsBefore()
}

func TestAPlanStopsAtNothingWhenItsTimeIsOverButReportsIt(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	reported := 0
	err := plan(t, w, "blue").Run(ctx, func(sweep.Step, error) { reported++ })
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 4, reported)
}
