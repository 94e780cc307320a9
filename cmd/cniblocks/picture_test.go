//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inventory"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func own(list ...string) (out []inventory.Addr) {
	for _, p := range prefixes(list...) {
		out = append(out, inventory.Addr{Prefix: p, Owner: inventory.Ours})
	}
	return out
}

const longID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// busy is a node with one of everything.
func busy() *inventory.Node {
	return &inventory.Node{
		Namespace: "/run/netns/n1", ForwardIPv4: true,
		Uplinks: []inventory.Uplink{{Name: "eth0", Addrs: prefixes("192.0.2.11/24", "2001:db8::11/64"), Default: true, Via: []netip.Addr{addr("192.0.2.1")}},
			{Name: "eth2", Addrs: prefixes("198.51.100.11/24")}},
		Bridges: []inventory.Bridge{
			{Name: "cni0", Owner: inventory.Ours, Network: "pods", Up: true, MTU: 1450, Addrs: own("10.244.1.1/24", "fd00:10:244:1::1/64")},
			{Name: "docker0", Owner: inventory.Foreign, Guess: "Docker", MTU: 1500,
				Addrs: []inventory.Addr{{Prefix: netip.MustParsePrefix("172.17.0.1/16"), Owner: inventory.Foreign}}},
			{Name: "br0", Owner: inventory.Foreign, Up: true, MTU: 1500, VLANFiltering: true},
		},
		Attachments: []inventory.Attachment{
			{HostEnd: "vethabcdefghijk", Owner: inventory.Ours, Network: "pods", ContainerID: longID, IfName: "eth0", Bridge: "cni0", Up: true,
				Leased: []netip.Addr{addr("10.244.1.2"), addr("fd00:10:244:1::2")},
				Pod: &inventory.PodEnd{Namespace: "/run/netns/cni-5f0d3a2c-1111-2222-3333-444455556666", Process: "nginx", Name: "eth0", Up: true,
					Addrs: prefixes("10.244.1.2/24", "fd00:10:244:1::2/64")}},
			{HostEnd: "vethbbbbbbbbbbb", Owner: inventory.Ours, Network: "pods", ContainerID: "web", IfName: "eth0", Bridge: "cni0", Up: true,
				Leased: []netip.Addr{addr("10.244.1.3")}},
			{HostEnd: "vethccccccccccc", Owner: inventory.Ours, Network: "pods", ContainerID: "db", IfName: "net1", Bridge: "cni0", Up: true,
				Pod: &inventory.PodEnd{Namespace: "/proc/4711/ns/net", Process: "postgres", Name: "net1", Addrs: prefixes("10.244.1.9/24")}},
			{HostEnd: "veth12ab34cd", Owner: inventory.Reference, Network: "old", ContainerID: "cache", IfName: "eth0", Bridge: "br0", Up: true,
				Leased: []netip.Addr{addr("10.22.0.5")},
				Pod:    &inventory.PodEnd{Namespace: "/run/netns/cache", Name: "eth0", Up: true, Addrs: prefixes("10.22.0.5/16")}},
			{HostEnd: "lxc1", Owner: inventory.Foreign, IfName: "eth0", Up: true,
				Pod: &inventory.PodEnd{Namespace: "/proc/99/ns/net", Process: "init", Name: "eth0", Up: true}},
		},
		Ports: []inventory.Port{{Name: "eth1", Bridge: "br0", Owner: inventory.Foreign}},
		Devices: []inventory.Device{
			{Name: "br0.20", Kind: "veth", Owner: inventory.Ours, Networks: []string{"pods"}, Bridge: "br0", VLAN: 20, Up: true, MTU: 1500, Addrs: own("10.20.0.1/24")},
			{Name: "cb-vxlan-1", Kind: "vxlan", Owner: inventory.Ours, Networks: []string{"pods", "more"}, Detail: "VNI 7, UDP port 4789",
				Local: []netip.Addr{addr("192.0.2.11")}, Over: []string{"eth0"}, Up: true, MTU: 1450, Addrs: own("10.244.1.0/32")},
			{Name: "flannel.1", Kind: "vxlan", Owner: inventory.Foreign, Guess: "flannel", Detail: "VNI 1, UDP port 8472", MTU: 1450},
		},
		Peers: []inventory.Peer{
			{Network: "more", Device: "cb-vxlan-1", Endpoint: addr("192.0.2.12"), Pods: prefixes("10.245.2.0/24")},
			{Network: "pods", Device: "cb-vxlan-1", Endpoint: addr("192.0.2.12"), Pods: prefixes("10.244.2.0/24", "fd00:10:244:2::/64")},
			{Network: "pods", Device: "eth2", Endpoint: addr("198.51.100.12"), Pods: prefixes("10.244.4.0/24")},
			{Network: "pods", Device: "cb-vxlan-1", Pods: prefixes("10.244.5.0/24")},
		},
		Routes: []inventory.Route{
			{Dst: netip.MustParsePrefix("10.244.2.0/24"), Via: addr("10.244.2.0"), Device: "cb-vxlan-1", Src: addr("10.244.1.0")},
			{Dst: netip.MustParsePrefix("10.244.3.0/24"), Device: "cb-gre", Encap: "id 7 to 192.0.2.13"},
		},
		SNAT: []inventory.SNAT{
			{Backend: "nftables", Owner: inventory.Ours, Network: "pods",
				Sources: []inventory.Span{{First: addr("10.244.1.2"), Last: addr("10.244.1.254")}, {First: addr("fd00:10:244:1::2"), Last: addr("fd00:10:244:1:ffff:ffff:ffff:ffff")}},
				Except:  prefixes("10.244.0.0/16", "10.244.1.0/24", "192.168.0.0/16", "fd00:10:244:1::/64")},
			{Backend: "iptables", Owner: inventory.Ours, Network: "more", Sources: []inventory.Span{{First: addr("10.3.0.50"), Last: addr("10.3.0.60")}},
				Except: prefixes("10.3.0.0/24"), Pods: []netip.Addr{addr("10.4.0.1")}},
			{Backend: "nftables", Owner: inventory.Ours, Network: "torn", Broken: true},
			{Backend: "iptables", Owner: inventory.Reference, Entries: 12},
		},
		Forward: []inventory.Forward{{Network: "pods", Table: "ip filter"}},
		Guards:  []inventory.Guard{{Owner: inventory.Ours, Network: "pods", HostEnd: "vethabcdefghijk"}},
		Leases: []inventory.Lease{
			{Dir: "/var/lib/cni/networks", Network: "pods", Addr: addr("10.244.1.2"), ContainerID: longID, IfName: "eth0", InUse: true},
			{Dir: "/var/lib/cni/networks", Network: "pods", Addr: addr("10.244.1.77"), ContainerID: longID, IfName: "eth0"},
		},
		LeaseDirs: []inventory.LeaseDir{
			{DataDir: "/var/lib/cni/networks", Network: "pods", Owner: inventory.Ours, Leases: 2, Exists: true},
			{DataDir: "/var/lib/cni/networks", Network: "old", Owner: inventory.Reference, Exists: true, Leases: 1},
			{DataDir: "/var/lib/cni/networks", Network: "gone", Owner: inventory.Ours},
		},
		State: []inventory.StateDir{{Path: "/run/cniblocks/pods", Network: "pods", Here: true, Node: "a",
			Prefixes: prefixes("10.244.0.0/16", "fd00:10:244::/48")}},
		Obstacles: []inventory.Obstacle{{What: "chain FORWARD of table ip filter drops what no rule accepts, as Docker has it",
			Remedy: "rules of ours let the pods of pods pass"}},
		Unread: []string{"something: why"},
	}
}

// golden compares with a file, or writes it where GOLDEN is set.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("GOLDEN") != "" {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestThePictureShowsEveryKindOfObjectAndWhoseItIs(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	picture(busy(), "", "", false).draw(&out, page)
	golden(t, "busy.txt", out.String())
}

func TestThePictureOfOneNetworkShowsOnlyThat(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	picture(busy().Only("more"), "/run/netns/n1", "more", false).draw(&out, page)
	golden(t, "one.txt", out.String())
}

func TestThePictureOfAnEmptyNodeSaysSo(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	picture(&inventory.Node{}, "", "", false).draw(&out, page)
	require.Equal(t, "node: this network namespace, forwards no packets\n"+
		"├─ no uplink: no default route, and no address beside those of pods' devices\n└─ no bridge, no pod, no tunnel\n", out.String())
}

// crowded is a busy node with three hundred pods more.
func crowded() *inventory.Node {
	n := busy()
	for i := range 300 {
		n.Attachments = append(n.Attachments, inventory.Attachment{HostEnd: fmt.Sprintf("veth%011d", i), Owner: inventory.Ours, Network: "pods",
			ContainerID: longID, IfName: "eth0123456789ab", Bridge: "cni0", Pod: &inventory.PodEnd{Namespace: "/run/netns/cni-5f0d3a2c-1111-2222-3333-444455556666",
				Addrs: prefixes("2001:db8:1111:2222:3333:4444:5555:6666/64", "192.168.100.100/24")}})
	}
	return n
}

func TestNoLineIsWiderThanTheTerminal(t *testing.T) {
	t.Parallel()
	for _, width := range []int{80, page, 160} {
		var out strings.Builder
		picture(crowded(), "", "", false).draw(&out, width)
		most := 0
		for line := range strings.Lines(out.String()) {
			most = max(most, columns(strings.TrimSuffix(line, "\n")))
		}
		require.LessOrEqual(t, most, width)
		require.Greater(t, most, width-20, "it uses the room")
	}
}

func TestOfEachKindThirtyLinesAreDrawnUnlessAllAreWanted(t *testing.T) {
	t.Parallel()
	var some, all strings.Builder
	picture(crowded(), "", "", false).draw(&some, page)
	picture(crowded(), "", "", true).draw(&all, page)
	require.Equal(t, 27, strings.Count(some.String(), "─ veth0"), "and three others")
	require.Contains(t, some.String(), "... and 273 more, see --all")
	require.Equal(t, 300, strings.Count(all.String(), "─ veth0"))
	require.NotContains(t, all.String(), "more, see")
}

func TestThePictureIsAsWideAsTheTerminal(t *testing.T) {
	t.Parallel()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer terminal.Close()
	none := func(string) string { return "" }
	for _, c := range []struct{ has, want int }{{132, 132}, {72, 72}, {20, least}, {0, page}} {
		require.NoError(t, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(c.has), Row: 25}))
		require.Equal(t, c.want, columnsOf(terminal, none))
	}
	require.Equal(t, page, columnsOf(&strings.Builder{}, none))
	require.Equal(t, 90, columnsOf(terminal, func(string) string { return "90" }))
}

func TestARangeThatIsNearlyASubnetIsSaidAsTheSubnet(t *testing.T) {
	t.Parallel()
	subnets := prefixes("10.1.0.0/24", "fd00::/64")
	for _, c := range []struct{ first, last, want string }{
		{"10.1.0.2", "10.1.0.254", "10.1.0.0/24"},
		{"10.1.0.0", "10.1.0.255", "10.1.0.0/24"},
		{"10.1.0.9", "10.1.0.254", "10.1.0.9 to 10.1.0.254"},
		{"10.1.0.2", "10.1.0.200", "10.1.0.2 to 10.1.0.200"},
		{"10.2.0.2", "10.2.0.2", "10.2.0.2"},
		{"fd00::2", "fd00::ffff:ffff:ffff:ffff", "fd00::/64"},
	} {
		require.Equal(t, c.want, addresses(inventory.Span{First: addr(c.first), Last: addr(c.last)}, subnets))
	}
}
