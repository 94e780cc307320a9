//go:build linux

package rtnl_test

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAVethPairIsMadeInPlaceByOneMessage(t *testing.T) {
	t.Parallel()
	_, c, other := world(t)
	pod := nstest.New(t)
	master := bridgeUp(t, c, "br0")
	hostMAC, podMAC := inet.MAC{2, 0, 0, 0, 0, 1}, inet.MAC{2, 0, 0, 0, 0, 2}
	var made rtnl.Link
	require.NoError(t, c.Do(rtnl.NewVeth(rtnl.End{Name: "host", MAC: hostMAC, MTU: 1400}, rtnl.End{Name: "eth0", MAC: podMAC, MTU: 1300},
		pod.Fd(), master, func(l rtnl.Link) { made = l })))

	host, err := other.LinkByName("host")
	require.NoError(t, err)
	h := host.Attrs()
	require.Equal(t, "veth", host.Type())
	require.Equal(t, hostMAC.String(), h.HardwareAddr.String())
	require.Equal(t, 1400, h.MTU)
	require.Equal(t, master, h.MasterIndex)
	require.NotZero(t, h.Flags&unix.IFF_UP)
	require.Equal(t, 1, h.NumTxQueues)
	require.Equal(t, 1, h.NumRxQueues)
	require.NotZero(t, h.TxQLen)

	end, err := nstest.Netlink(t, pod).LinkByName("eth0")
	require.NoError(t, err)
	p := end.Attrs()
	require.Equal(t, podMAC.String(), p.HardwareAddr.String())
	require.Equal(t, 1300, p.MTU)
	require.Zero(t, p.Flags&unix.IFF_UP)
	require.Equal(t, h.Index, p.ParentIndex)

	if made.Index != 0 { // since Linux 6.2
		require.Equal(t, rtnl.Link{Index: h.Index, Name: "host", Peer: p.Index, MAC: hostMAC, MTU: 1400},
			rtnl.Link{Index: made.Index, Name: made.Name, Peer: made.Peer, MAC: made.MAC, MTU: made.MTU})
	}
	require.NoError(t, c.Do(rtnl.DelLinkIndex(h.Index)))
	_, err = c.LinkByIndex(h.Index)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestABridgeIsMadeUpWithItsOwnMAC(t *testing.T) {
	t.Parallel()
	ns, c, other := world(t)
	want := rtnl.Bridge{Name: "br0", MAC: inet.MAC{2, 1, 1, 1, 1, 1}, MTU: 1400, Group: 117}
	require.NoError(t, c.Do(rtnl.NewBridge(want)))
	l, err := other.LinkByName("br0")
	require.NoError(t, err)
	require.IsType(t, &netlink.Bridge{}, l)
	require.Equal(t, want.MAC.String(), l.Attrs().HardwareAddr.String())
	require.Equal(t, want.MTU, l.Attrs().MTU)
	require.EqualValues(t, want.Group, l.Attrs().Group)
	require.NotZero(t, l.Attrs().Flags&unix.IFF_UP)

	nstest.Link(t, nstest.End{NS: ns, Name: "port"}, nstest.End{NS: nstest.New(t), Name: "x"})
	port, err := c.LinkByName("port")
	require.NoError(t, err)
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Index: port.Index, Master: l.Attrs().Index})))
	got, err := c.LinkByName("br0")
	require.NoError(t, err)
	require.Equal(t, want.MAC, got.MAC, "a port does not change it")
	require.Equal(t, "bridge", got.Kind)
}

func TestALinkIsReadAsAnotherLibraryReadsIt(t *testing.T) {
	t.Parallel()
	ns, c, other := world(t)
	master := bridgeUp(t, c, "br0")
	nstest.Link(t, nstest.End{NS: ns, Name: "veth0", MTU: 1400}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Name: "veth0", Alias: "an alias/ünïcode", Promisc: true, Master: master, Down: true})))
	links, err := c.Links("")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(links), 3)
	for _, l := range links {
		want, err := other.LinkByIndex(l.Index)
		require.NoError(t, err)
		w := want.Attrs()
		require.Equal(t, w.Name, l.Name)
		require.Equal(t, w.Alias, l.Alias)
		require.Equal(t, w.MTU, l.MTU)
		require.Equal(t, w.MasterIndex, l.Master)
		require.Equal(t, w.Promisc, l.Promisc)
		const carrier = unix.IFF_RUNNING | unix.IFF_LOWER_UP // follow a moment later
		require.Equal(t, w.RawFlags|carrier, l.Flags|carrier)
		if l.MAC != (inet.MAC{}) {
			require.Equal(t, w.HardwareAddr.String(), l.MAC.String())
		}
		if l.Kind != "" {
			require.Equal(t, want.Type(), l.Kind)
		}
		byIndex, err := c.LinkByIndex(l.Index)
		require.NoError(t, err)
		byName, err := c.LinkByName(l.Name)
		require.NoError(t, err)
		require.Equal(t, l.Index, byName.Index)
		require.Equal(t, l.Name, byIndex.Name)
	}
	veths, err := c.Links("veth")
	require.NoError(t, err)
	require.Len(t, veths, 1)
	require.False(t, veths[0].Up())
	none, err := c.Links("vxlan")
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestALinkIsChangedOnlyInWhatIsAsked(t *testing.T) {
	t.Parallel()
	ns, c, other := world(t)
	master := bridgeUp(t, c, "br0")
	nstest.Link(t, nstest.End{NS: ns, Name: "veth0"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	look := func() *netlink.LinkAttrs {
		l, err := other.LinkByName("veth0")
		require.NoError(t, err)
		return l.Attrs()
	}
	before := look()
	set := func(s rtnl.Set) *netlink.LinkAttrs {
		t.Helper()
		s.Index = before.Index
		require.NoError(t, c.Do(rtnl.SetLink(s)))
		return look()
	}
	require.Equal(t, 1400, set(rtnl.Set{MTU: 1400}).MTU)
	require.Equal(t, "02:00:00:00:00:09", set(rtnl.Set{MAC: inet.MAC{2, 0, 0, 0, 0, 9}}).HardwareAddr.String())
	require.Equal(t, "mine", set(rtnl.Set{Alias: "mine"}).Alias)
	require.Equal(t, master, set(rtnl.Set{Master: master}).MasterIndex)
	require.Equal(t, master, set(rtnl.Set{Up: true}).MasterIndex)
	require.Zero(t, set(rtnl.Set{Free: true}).MasterIndex)
	require.Zero(t, set(rtnl.Set{Down: true}).RawFlags&unix.IFF_UP)
	after := set(rtnl.Set{Up: true, Promisc: true})
	require.NotZero(t, after.RawFlags&unix.IFF_UP)
	require.NotZero(t, after.RawFlags&unix.IFF_PROMISC)
	require.Equal(t, "mine", after.Alias)
	require.Equal(t, 1400, after.MTU)
}

func TestFlagsOfABridgePortAreSetAndRead(t *testing.T) {
	t.Parallel()
	ns, c, other := world(t)
	master := bridgeUp(t, c, "br0")
	nstest.Link(t, nstest.End{NS: ns, Name: "port"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Name: "port", Master: master})))
	l, err := c.LinkByName("port")
	require.NoError(t, err)
	require.Equal(t, rtnl.Port{Learning: true, Flood: true}, l.Port)
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Index: l.Index, Port: []rtnl.PortFlag{{Attr: rtnl.Hairpin, On: true},
		{Attr: rtnl.Isolated, On: true}, {Attr: rtnl.Learning}, {Attr: rtnl.Flood}, {Attr: rtnl.NeighSuppress, On: true}}})))
	l, err = c.LinkByName("port")
	require.NoError(t, err)
	require.Equal(t, rtnl.Port{Hairpin: true, Isolated: true, NeighSuppress: true}, l.Port)
	port, err := other.LinkByName("port")
	require.NoError(t, err)
	info, err := other.LinkGetProtinfo(port)
	require.NoError(t, err)
	require.True(t, info.Hairpin && info.Isolated && info.NeighSuppress)
	require.False(t, info.Learning || info.Flood)
}

func TestANameThatNoInterfaceCanHaveIsNotThere(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	for _, name := range []string{"", "nowhere", "fifteen-letters", "sixteen-letters-", strings.Repeat("x", 5000)} {
		_, err := c.LinkByName(name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	_, err := c.LinkByIndex(99999)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAListenerHearsOfTheLinkThatGoesAndOfNoOther(t *testing.T) {
	t.Parallel()
	ns, c, _ := world(t)
	master := bridgeUp(t, c, "br0")
	nstest.Link(t, nstest.End{NS: ns, Name: "port"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	port, err := c.LinkByName("port")
	require.NoError(t, err)
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Index: port.Index, Master: master})))

	l, err := rtnl.Listen(ns, rtnl.GroupLink)
	require.NoError(t, err)
	defer l.Close()
	require.Positive(t, l.Fd())
	gone := func() bool {
		t.Helper()
		g, err := l.Deleted(port.Index)
		require.NoError(t, err)
		return g
	}
	require.False(t, gone(), "nothing has arrived")
	require.NoError(t, c.Do(rtnl.SetLink(rtnl.Set{Index: port.Index, Free: true})))
	require.False(t, gone(), "a port that leaves its bridge is still a link")
	require.NoError(t, c.Do(rtnl.DelLink("br0")))
	require.False(t, gone(), "it is another link")
	require.NoError(t, c.Do(rtnl.DelLinkIndex(port.Index)))
	require.True(t, gone())
	require.False(t, gone(), "it is told once")
}
