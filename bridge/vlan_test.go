//go:build linux

package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// lan is a bridge that filters VLANs.
type lan struct {
	t    *testing.T
	node *netns.NS
	br   bridge.State
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	nstest.Need(t, nstest.VLANFiltering)
	l := &lan{t: t, node: nstest.New(t)}
	var err error
	l.br, err = bridge.Ensure(t.Context(), l.node, bridge.Bridge{Name: "br0", VLANFiltering: true})
	require.NoError(t, err)
	require.True(t, l.br.VLANFiltering)
	return l
}

// join attaches a new namespace whose eth0 has the address, and puts its port into VLANs.
func (l *lan) join(address string, p bridge.Port) (pod *netns.NS, port int) {
	l.t.Helper()
	pod = nstest.New(l.t)
	pair, err := veth.CreateOn(l.t.Context(), veth.Pair{Host: veth.End{NS: l.node, Name: link.HostName("test", address, "")},
		Pod: veth.End{NS: pod, Name: "eth0"}}, l.br.Index)
	require.NoError(l.t, err)
	require.NoError(l.t, bridge.SetPort(l.t.Context(), l.node, pair.Host.Index, p))
	require.NoError(l.t, bridge.CheckPort(l.t.Context(), l.node, pair.Host.Index, p))
	if address != "" {
		nstest.AddAddrs(l.t, pod, "eth0", address)
	}
	nstest.SetUp(l.t, pod, "eth0")
	return pod, pair.Host.Index
}

// tagged gives a namespace a device of one VLAN above eth0.
func (l *lan) tagged(pod *netns.NS, id int, address string) {
	l.t.Helper()
	h := nstest.Netlink(l.t, pod)
	lower, err := h.LinkByName("eth0")
	require.NoError(l.t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = fmt.Sprintf("eth0.%d", id), lower.Attrs().Index
	require.NoError(l.t, h.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id}))
	nstest.AddAddrs(l.t, pod, attrs.Name, address)
	nstest.SetUp(l.t, pod, attrs.Name)
}

func (l *lan) reaches(from *netns.NS, to string) bool {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	return nstest.Ping(ctx, from, netip.MustParseAddr(to), ping.Options{}) == nil
}

func (l *lan) silent(from *netns.NS, to string) bool {
	l.t.Helper()
	return nstest.Ping(l.t.Context(), from, netip.MustParseAddr(to), ping.Options{Timeout: 700 * time.Millisecond}) != nil
}

func (l *lan) vlans(port int) map[int][2]bool {
	l.t.Helper()
	all, err := nstest.Netlink(l.t, l.node).BridgeVlanList()
	require.NoError(l.t, err)
	have := map[int][2]bool{}
	for _, v := range all[int32(port)] {
		have[int(v.Vid)] = [2]bool{v.PortVID(), v.EngressUntag()}
	}
	return have
}

func TestVLANPortsTalkWithinTheirVLANOnly(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, port := l.join("10.1.0.1/24", bridge.Port{VLAN: 100})
	b, _ := l.join("10.1.0.2/24", bridge.Port{VLAN: 100})
	c, _ := l.join("10.1.0.3/24", bridge.Port{VLAN: 200})
	d, plain := l.join("10.1.0.4/24", bridge.Port{})
	require.True(t, l.reaches(a, "10.1.0.2"))
	require.True(t, l.reaches(b, "10.1.0.1"))
	for _, to := range []string{"10.1.0.3", "10.1.0.4"} {
		require.True(t, l.silent(a, to), to)
	}
	require.True(t, l.silent(c, "10.1.0.4"))
	require.True(t, l.silent(d, "10.1.0.1"))
	require.Equal(t, map[int][2]bool{100: {true, true}}, l.vlans(port))
	require.Equal(t, map[int][2]bool{1: {true, true}}, l.vlans(plain))
}

func TestVLANTrunkCarriesTags(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	trunk, port := l.join("10.1.0.1/24", bridge.Port{VLAN: 100, Trunk: []uint16{200, 201, 202, 300}})
	l.tagged(trunk, 200, "10.2.0.1/24")
	l.tagged(trunk, 400, "10.4.0.1/24")
	a, _ := l.join("10.1.0.2/24", bridge.Port{VLAN: 100})
	b, _ := l.join("10.2.0.2/24", bridge.Port{VLAN: 200})
	c, _ := l.join("10.4.0.2/24", bridge.Port{VLAN: 400})
	require.True(t, l.reaches(a, "10.1.0.1"), "the native VLAN is untagged")
	require.True(t, l.reaches(b, "10.2.0.1"))
	require.True(t, l.reaches(trunk, "10.2.0.2"))
	require.True(t, l.silent(c, "10.4.0.1"), "a VLAN that the trunk does not carry")
	require.Equal(t, map[int][2]bool{100: {true, true}, 200: {}, 201: {}, 202: {}, 300: {}}, l.vlans(port))
}

func TestVLANTrunkWithoutANativeVLANPutsUntaggedFramesIntoOne(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	_, port := l.join("", bridge.Port{Trunk: []uint16{5, 6}})
	require.Equal(t, map[int][2]bool{1: {true, true}, 5: {}, 6: {}}, l.vlans(port))
}

func TestVLANTrunkOfAllVLANsIsSetAndChecked(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	all := bridge.Port{VLAN: 7}
	for id := uint16(1); id <= bridge.MaxVLAN; id++ {
		all.Trunk = append(all.Trunk, id)
	}
	_, port := l.join("", all)
	require.NoError(t, bridge.SetPort(t.Context(), l.node, port, all), "again")
	require.NoError(t, bridge.CheckPort(t.Context(), l.node, port, all))
	require.Error(t, bridge.CheckPort(t.Context(), l.node, port, bridge.Port{VLAN: 7, Trunk: all.Trunk[:4000]}))
}

func TestVLANPortKeepsTheDefaultVLANIfAsked(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	keep := bridge.Port{VLAN: 100, KeepDefault: true}
	_, port := l.join("", keep)
	require.Equal(t, map[int][2]bool{1: {false, true}, 100: {true, true}}, l.vlans(port))
	require.ErrorContains(t, bridge.CheckPort(t.Context(), l.node, port, bridge.Port{VLAN: 100}), "1 VLANs more than configured")
}

func TestVLANCheckSeesAPortThatWasPutElsewhere(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	want := bridge.Port{VLAN: 100, Trunk: []uint16{200}}
	_, port := l.join("", want)
	h := nstest.Netlink(t, l.node)
	link, err := h.LinkByIndex(port)
	require.NoError(t, err)
	for name, change := range map[string]func() error{
		"out of its VLAN":       func() error { return h.BridgeVlanDel(link, 100, false, false, false, true) },
		"out of a trunk's VLAN": func() error { return h.BridgeVlanDel(link, 200, false, false, false, true) },
		"into another":          func() error { return h.BridgeVlanAdd(link, 300, false, false, false, true) },
		"another native VLAN":   func() error { return h.BridgeVlanAdd(link, 300, true, true, false, true) },
		"tagged":                func() error { return h.BridgeVlanAdd(link, 100, false, false, false, true) },
	} {
		require.NoError(t, change(), name)
		require.Error(t, bridge.CheckPort(t.Context(), l.node, port, want), name)
		require.NoError(t, bridge.SetPort(t.Context(), l.node, port, want), name)
		require.NoError(t, bridge.CheckPort(t.Context(), l.node, port, want), name)
	}
}

func TestVLANGatewayIsReachedInItsVLANOnly(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, _ := l.join("10.1.0.2/24", bridge.Port{VLAN: 100})
	b, _ := l.join("10.1.0.3/24", bridge.Port{VLAN: 200})
	gw, err := bridge.VLANGateway(t.Context(), l.node, l.br, 100, "cniblocks/test", false)
	require.NoError(t, err)
	require.Equal(t, "br0.100", gw.Name)
	nstest.AddAddrs(t, l.node, gw.Name, "10.1.0.1/24")
	require.True(t, l.reaches(a, "10.1.0.1"))
	require.True(t, l.silent(b, "10.1.0.1"))
	before := l.devices()
	again, err := bridge.VLANGateway(t.Context(), l.node, l.br, 100, "cniblocks/test", false)
	require.NoError(t, err)
	require.Equal(t, gw, again)
	require.Equal(t, before, l.devices())
}

// devices are the lines of a dump that tell of links and their VLANs.
func (l *lan) devices() (lines []string) {
	for line := range strings.Lines(nstest.Dump(l.node)) {
		if strings.HasPrefix(line, "link ") || strings.HasPrefix(line, "vlan ") {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestVLANGatewayOfABridgeThatWasMadeAnewIsPutBackThere(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	gw, err := bridge.VLANGateway(t.Context(), l.node, l.br, 100, "cniblocks/test", false)
	require.NoError(t, err)
	nstest.AddAddrs(t, l.node, gw.Name, "10.1.0.1/24")
	h := nstest.Netlink(t, l.node)
	br, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, h.LinkDel(br))
	l.br, err = bridge.Ensure(t.Context(), l.node, bridge.Bridge{Name: "br0", VLANFiltering: true})
	require.NoError(t, err)
	_, err = bridge.VLANGateway(t.Context(), l.node, l.br, 100, "cniblocks/test", false)
	require.NoError(t, err)
	a, _ := l.join("10.1.0.2/24", bridge.Port{VLAN: 100})
	require.True(t, l.reaches(a, "10.1.0.1"))
}

func TestVLANIDsThatNoFrameCanBearAreNamed(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	before := nstest.Dump(ns)
	for says, p := range map[string]bridge.Port{"VLAN 4095: want 1 to 4094": {VLAN: 4095}, "trunk with VLAN 0: want 1": {Trunk: []uint16{5, 0}},
		"trunk with VLAN 5000: want 1": {VLAN: 1, Trunk: []uint16{5000}}} {
		require.ErrorContains(t, bridge.SetPort(t.Context(), ns, 1, p), says)
		require.ErrorContains(t, bridge.CheckPort(t.Context(), ns, 1, p), says)
	}
	for _, id := range []uint16{0, 4095} {
		_, err := bridge.VLANGateway(t.Context(), ns, bridge.State{Name: "br0"}, id, "", false)
		require.ErrorContains(t, err, fmt.Sprintf("gateway of bridge br0 in VLAN %d: want 1 to 4094", id))
	}
	require.Equal(t, before, nstest.Dump(ns))
}

func TestVLANFilteringOfAForeignBridgeIsNotSwitchedOn(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	ns := nstest.New(t)
	br := foreign(t, ns, "br0")
	_, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", VLANFiltering: true})
	require.ErrorContains(t, err, "ip link set br0 type bridge vlan_filtering 1")
	require.NoError(t, nstest.Netlink(t, ns).BridgeSetVlanFiltering(br, true))
	s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", VLANFiltering: true})
	require.NoError(t, err)
	require.True(t, s.VLANFiltering)

	_, err = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br1"})
	require.NoError(t, err)
	s, err = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br1", VLANFiltering: true})
	require.NoError(t, err, "our own")
	require.True(t, s.VLANFiltering)
}
