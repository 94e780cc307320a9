//go:build linux

package inventory_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/inventorytest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAPodIsFoundWithItsBridgeAddressesLeasesAndSNAT(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.NFTBridge)
	w := inventorytest.New(t)
	pin, _ := w.Add(w.Conf("blue", "1", map[string]any{"macspoofchk": true}), "a")
	n := w.Read()

	require.Equal(t, []string{"blue"}, n.Networks())
	require.Equal(t, []string{"blue"}, n.OurNetworks())
	require.True(t, n.ForwardIPv4 && n.ForwardIPv6)
	require.Equal(t, []inventory.Uplink{{Name: "uplink", Addrs: prefixes("192.0.2.1/24", "2001:db8::1/64"), Default: true, Via: addrs("192.0.2.2", "2001:db8::2")}}, n.Uplinks)

	require.Len(t, n.Bridges, 1)
	b := n.Bridges[0]
	require.Equal(t, "br-blue", b.Name)
	require.Equal(t, inventory.Ours, b.Owner)
	require.Equal(t, "blue", b.Network)
	require.True(t, b.Up)
	require.Equal(t, []inventory.Addr{{Prefix: netip.MustParsePrefix("10.1.0.1/24"), Owner: inventory.Ours},
		{Prefix: netip.MustParsePrefix("fd00:1::1/64"), Owner: inventory.Ours}}, b.Addrs)

	require.Len(t, n.Attachments, 2) // the uplink of a test is a pair too
	a := n.Attachments[1]
	require.Equal(t, link.HostName("blue", "a", "eth0"), a.HostEnd)
	require.Equal(t, inventory.Ours, a.Owner)
	require.Equal(t, "blue a eth0 br-blue", a.Network+" "+a.ContainerID+" "+a.IfName+" "+a.Bridge)
	require.Equal(t, addrs("10.1.0.2", "fd00:1::2"), a.Leased)
	require.NotNil(t, a.Pod)
	require.Equal(t, netns.Dir+"/"+pin, a.Pod.Namespace)
	require.Equal(t, "eth0", a.Pod.Name)
	require.Equal(t, prefixes("10.1.0.2/24", "fd00:1::2/64"), a.Pod.Addrs)
	require.Equal(t, inventory.Foreign, n.Attachments[0].Owner)

	require.Len(t, n.SNAT, 1)
	require.Equal(t, "nftables", n.SNAT[0].Backend)
	require.Equal(t, prefixes("10.1.0.0/24", "fd00:1::/64"), n.SNAT[0].Except)
	require.Equal(t, inventory.Span{First: netip.MustParseAddr("10.1.0.2"), Last: netip.MustParseAddr("10.1.0.254")}, n.SNAT[0].Sources[0])

	require.Len(t, n.Guards, 1)
	require.Equal(t, inventory.Guard{Owner: inventory.Ours, Network: "blue", HostEnd: a.HostEnd, Entry: "MAC " + a.Pod.MAC}, n.Guards[0])
	require.Equal(t, []inventory.LeaseDir{{DataDir: w.DataDir, Network: "blue", Owner: inventory.Ours, Leases: 2, Exists: true}}, n.LeaseDirs)
	require.Len(t, n.Leases, 2)
	require.True(t, n.Leases[0].InUse && n.Leases[1].InUse)
	require.Empty(t, n.Obstacles)
}

func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	require.NoError(t, os.RemoveAll(filepath.Join(w.DataDir, ".cniblocks")))
	before := nstest.Dump(w.Node)
	n := w.Read()
	require.Equal(t, before, nstest.Dump(w.Node))
	require.NoDirExists(t, filepath.Join(w.DataDir, ".cniblocks"))
	require.Len(t, n.Leases, 2)
	require.Equal(t, n, w.Read())
}

func TestAPodWhoseNamespaceIsNowhereToBeFoundIsStillThereWithItsLease(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.AddUnseen(w.Conf("blue", "1", nil), "a")
	n := w.Read().Only("blue")
	require.Len(t, n.Attachments, 1)
	require.Nil(t, n.Attachments[0].Pod)
	require.Equal(t, addrs("10.1.0.2", "fd00:1::2"), n.Attachments[0].Leased)
}

func TestPodsOfTwoNodesThatLookTheSameAreNotMixedUp(t *testing.T) {
	t.Parallel()
	one, two := inventorytest.New(t), inventorytest.New(t)
	pin1, _ := one.Add(one.Conf("blue", "1", nil), "a")
	pin2, _ := two.Add(two.Conf("blue", "1", nil), "a")
	a, b := one.Read().Only("blue").Attachments[0], two.Read().Only("blue").Attachments[0]
	require.Equal(t, a.HostEnd, b.HostEnd)
	require.Equal(t, netns.Dir+"/"+pin1, a.Pod.Namespace)
	require.Equal(t, netns.Dir+"/"+pin2, b.Pod.Namespace)
}

func TestAPodOfTheReferenceIsKnownByItsLease(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	referencePod(t, w, "cni0", "10.9.0.7", "old")
	n := w.Read()
	require.Equal(t, []string{"cni"}, n.Networks())
	require.Empty(t, n.OurNetworks())
	a := n.Only("cni").Attachments
	require.Len(t, a, 1)
	require.Equal(t, inventory.Reference, a[0].Owner)
	require.Equal(t, "old", a[0].ContainerID)
	require.Equal(t, inventory.Foreign, n.Bridges[0].Owner)
	require.Equal(t, "the reference bridge plugin", n.Bridges[0].Guess)
	require.Equal(t, inventory.Reference, n.LeaseDirs[0].Owner)
}

// referencePod makes what the reference plugins leave behind an ADD: a bridge and a pair without a mark, a lease file.
func referencePod(t *testing.T, w *inventorytest.World, bridge, ip, id string) {
	t.Helper()
	h := nstest.Netlink(t, w.Node)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	require.NoError(t, h.LinkAdd(br))
	_, pod := nstest.Named(t)
	nstest.Link(t, nstest.End{NS: w.Node, Name: "veth0123abcd"}, nstest.End{NS: pod, Name: "eth0", Addrs: []string{ip + "/24"}})
	end, err := h.LinkByName("veth0123abcd")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetMaster(end, br))
	require.NoError(t, os.MkdirAll(filepath.Join(w.DataDir, "cni"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "cni", ip), []byte(id+"\r\neth0"), 0o644))
}

func TestATunnelARouteAndAFootInAVLANAreKnownByTheirMarks(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	w := inventorytest.New(t)
	h := nstest.Netlink(t, w.Node)
	vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "cb-vxlan-1"}, VxlanId: 7, Port: 4789}
	require.NoError(t, h.LinkAdd(vx))
	require.NoError(t, h.LinkSetAlias(vx, "cniblocks/pods+more"))
	foreign := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472}
	require.NoError(t, h.LinkAdd(foreign))
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	require.NoError(t, h.LinkAdd(br))
	foot := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethfoot", MasterIndex: br.Index}, PeerName: "br0.20"}
	require.NoError(t, h.LinkAdd(foot))
	require.NoError(t, h.LinkSetAlias(foot, "cniblocks/pods"))
	nstest.AddAddrs(t, w.Node, "br0.20", "10.20.0.1/24")
	require.NoError(t, h.LinkSetUp(vx))
	dst := &net.IPNet{IP: net.IPv4(10, 244, 2, 0), Mask: net.CIDRMask(24, 32)}
	require.NoError(t, h.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: vx.Index, Protocol: 117, Scope: netlink.SCOPE_LINK}))

	n := w.Read()
	require.Equal(t, []string{"more", "pods"}, n.Networks())
	require.Len(t, n.Devices, 3)
	require.Equal(t, "br0.20 br0 20 ours", n.Devices[0].Name+" "+n.Devices[0].Bridge+" "+"20 "+string(n.Devices[0].Owner))
	require.Equal(t, 20, n.Devices[0].VLAN)
	require.Equal(t, inventory.Ours, n.Devices[1].Owner)
	require.Equal(t, []string{"pods", "more"}, n.Devices[1].Networks)
	require.Equal(t, "VNI 7, UDP port 4789", n.Devices[1].Detail)
	require.Equal(t, inventory.Foreign, n.Devices[2].Owner)
	require.Equal(t, "flannel", n.Devices[2].Guess)
	require.Len(t, n.Routes, 1)
	require.Equal(t, "10.244.2.0/24 cb-vxlan-1", n.Routes[0].Dst.String()+" "+n.Routes[0].Device)
	require.Empty(t, n.Ports)
}

func TestAFORWARDPolicyThatDropsIsSaidWithWhoPassesIt(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := inventorytest.New(t)
	dropForward(t, w.Node, "filter", "FORWARD")
	dropForward(t, w.Node, "firewall", "stop")
	n := w.Read()
	require.Len(t, n.Obstacles, 2)
	require.Contains(t, n.Obstacles[0].What, "chain FORWARD of table ip filter drops")
	require.Contains(t, n.Obstacles[0].Remedy, "at its next ADD")
	require.Contains(t, n.Obstacles[1].What, "chain stop of nftables table ip firewall")

	w.Add(w.Conf("blue", "1", nil), "a")
	n = w.Read()
	require.Equal(t, []inventory.Forward{{Network: "blue", Table: "ip filter"}}, n.Forward)
	require.Equal(t, "rules of ours let the pods of blue pass", n.Obstacles[0].Remedy)
}

func dropForward(t *testing.T, ns *netns.NS, table, chain string) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()))
	require.NoError(t, err)
	tab := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: table})
	drop := nftables.ChainPolicyDrop
	c.AddChain(&nftables.Chain{Table: tab, Name: chain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop})
	require.NoError(t, c.Flush())
}

func TestSNATWhoseRuleWasFlushedIsBroken(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	c, err := nftables.New(nftables.WithNetNSFd(w.Node.Fd()))
	require.NoError(t, err)
	c.FlushChain(&nftables.Chain{Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "cniblocks"}, Name: "postrouting"})
	require.NoError(t, c.Flush())
	n := w.Read()
	require.Len(t, n.SNAT, 1)
	require.True(t, n.SNAT[0].Broken)
	require.Equal(t, "blue", n.SNAT[0].Network)
}

func TestConflistsTellWhereElseLeasesAre(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	conf := `{"name":"blue","plugins":[{"type":"overlay","delegate":{"type":"bridge","ipam":{"type":"host-local","dataDir":"` + w.DataDir + `"}}}]}`
	require.NoError(t, os.WriteFile(filepath.Join(w.ConfDir, "10-blue.conflist"), []byte(conf), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(w.ConfDir, "20-broken.conflist"), []byte("{"), 0o644))
	o := w.Options()
	o.DataDirs = nil
	n, err := inventory.Read(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, n.Only("blue").Leases, 2)
}

func TestWhatIsNoDirectoryOfLeasesIsLeftOut(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	require.NoError(t, os.Mkdir(filepath.Join(w.DataDir, "something"), 0o755))
	require.NoError(t, os.Symlink("/etc", filepath.Join(w.DataDir, "link")))
	require.NoError(t, os.WriteFile(filepath.Join(w.DataDir, "file"), nil, 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(w.DataDir, ".cniblocks", "gone"), 0o755))
	n := w.Read()
	require.Equal(t, []inventory.LeaseDir{{DataDir: w.DataDir, Network: "gone", Owner: inventory.Ours}}, n.LeaseDirs)
}

func TestNoListIsNullInJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(inventorytest.New(t).Read())
	require.NoError(t, err)
	require.NotContains(t, string(b), "null")
}

func TestOfOneNetworkNothingOfAnotherIsShown(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "a")
	w.Add(w.Conf("red", "2", nil), "b")
	b, err := json.Marshal(w.Read().Only("red"))
	require.NoError(t, err)
	require.NotContains(t, string(b), "blue")
	require.Contains(t, string(b), "10.2.0.2")
}

func TestADeviceWithoutADefaultRouteIsAnUplinkWherePacketsLeaveByIt(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	o := inventory.Options{NS: ns, DataDirs: []string{t.TempDir()}, ConfDir: t.TempDir(), StateDir: t.TempDir()}
	read := func() *inventory.Node {
		n, err := inventory.Read(t.Context(), o)
		require.NoError(t, err)
		return n
	}
	nstest.Link(t, nstest.End{NS: ns, Name: "veth1", Addrs: []string{"10.9.0.1/32"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	require.Empty(t, read().Uplinks, "a pair with the address of a pod's gateway is none")
	nstest.Link(t, nstest.End{NS: ns, Name: "lan", Addrs: []string{"198.51.100.1/24"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	require.Equal(t, []inventory.Uplink{{Name: "lan", Addrs: prefixes("198.51.100.1/24"), Via: []netip.Addr{}}}, read().Uplinks, name)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.1/24"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	nstest.AddRoute(t, ns, "default", "192.0.2.2")
	h := nstest.Netlink(t, ns)
	lan, err := h.LinkByName("lan")
	require.NoError(t, err)
	dst := &net.IPNet{IP: net.IPv4(10, 244, 2, 0), Mask: net.CIDRMask(24, 32)}
	require.NoError(t, h.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: lan.Attrs().Index, Gw: net.IPv4(198, 51, 100, 2), Protocol: 117}))
	n := read()
	require.Len(t, n.Uplinks, 2)
	require.True(t, n.Uplinks[0].Name == "eth0" && n.Uplinks[0].Default)
	require.True(t, n.Uplinks[1].Name == "lan" && !n.Uplinks[1].Default)
	require.Equal(t, []inventory.Peer{{Device: "lan", Endpoint: netip.MustParseAddr("198.51.100.2"), Pods: prefixes("10.244.2.0/24")}}, n.Peers)
}

func TestOfOneContainerOrAddressOnlyThatIsShown(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	w.Add(w.Conf("blue", "1", nil), "aaaa1")
	w.Add(w.Conf("blue", "1", nil), "aaab2")
	w.Add(w.Conf("red", "2", nil), "aaac3")
	n := w.Read()
	for _, o := range []*inventory.Node{n.OnlyContainer("aaab"), n.OnlyAddr(netip.MustParseAddr("10.1.0.3")), n.OnlyAddr(netip.MustParseAddr("fd00:1::3")), n.Only("blue").OnlyContainer("aaab2")} {
		require.Len(t, o.Attachments, 1)
		require.Equal(t, "aaab2", o.Attachments[0].ContainerID)
		require.Len(t, o.Bridges, 1)
		require.Equal(t, "br-blue", o.Bridges[0].Name)
		require.Equal(t, []string{"blue"}, o.Networks())
		require.Len(t, o.SNAT, 1)
		b, err := json.Marshal(o)
		require.NoError(t, err)
		require.NotContains(t, string(b), "null")
		require.NotContains(t, string(b), "aaaa1")
	}
	require.Len(t, n.OnlyContainer("aaa").Attachments, 3)
	gateway := n.OnlyAddr(netip.MustParseAddr("10.2.0.1"))
	require.Empty(t, gateway.Attachments)
	require.Equal(t, "br-red", gateway.Bridges[0].Name)
	require.True(t, n.Only("red").OnlyContainer("aaaa1").Empty())
	require.True(t, n.OnlyAddr(netip.MustParseAddr("10.1.0.77")).Empty())
}
