//go:build linux

package veth_test

import (
	"context"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// pair is one between two new namespaces.
func pair(t *testing.T) veth.Pair {
	t.Helper()
	return veth.Pair{Host: veth.End{NS: nstest.New(t), Name: "host0"}, Pod: veth.End{NS: nstest.New(t), Name: "eth0"}}
}

func newBridge(t *testing.T, ns *netns.NS, name string) int {
	t.Helper()
	h := nstest.Netlink(t, ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	br := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, h.LinkAdd(br))
	require.NoError(t, h.LinkSetUp(br))
	return br.Index
}

func TestAPairSpansTwoNamespacesAndCarriesPackets(t *testing.T) {
	t.Parallel()
	p, err := veth.Create(t.Context(), pair(t))
	require.NoError(t, err)
	nstest.AddAddrs(t, p.Host.NS, "host0", "192.0.2.1/24")
	nstest.AddAddrs(t, p.Pod.NS, "eth0", "192.0.2.2/24")
	nstest.SetUp(t, p.Pod.NS, "eth0")
	require.NoError(t, nstest.Ping(t.Context(), p.Pod.NS, netip.MustParseAddr("192.0.2.1"), ping.Options{}))
}

func TestCreateFillsInWhatTheKernelChose(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *veth.Pair){
		"nothing stated":    func(*veth.Pair) {},
		"host's MTU stated": func(p *veth.Pair) { p.Host.MTU = 9000 },
		"pod's MTU stated":  func(p *veth.Pair) { p.Pod.MTU = 68 },
		"all stated": func(p *veth.Pair) {
			p.Host.MAC, p.Host.MTU = inet.MAC{2, 0, 0, 0, 0, 1}, 1400
			p.Pod.MAC, p.Pod.MTU = inet.MAC{2, 0, 0, 0, 0, 2}, 1400
			p.Alias = "cniblocks/net/id/eth0"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := pair(t)
			change(&want)
			got, err := veth.Create(t.Context(), want)
			require.NoError(t, err)
			h, err := nstest.Netlink(t, want.Host.NS).LinkByName("host0")
			require.NoError(t, err)
			e, err := nstest.Netlink(t, want.Pod.NS).LinkByName("eth0")
			require.NoError(t, err)
			host, pod := h.Attrs(), e.Attrs()
			require.Equal(t, host.Index, got.Host.Index)
			require.Equal(t, pod.Index, got.Pod.Index)
			require.Equal(t, host.HardwareAddr.String(), got.Host.MAC.String())
			require.Equal(t, host.MTU, got.Host.MTU)
			require.Equal(t, pod.HardwareAddr.String(), got.Pod.MAC.String())
			require.Equal(t, pod.MTU, got.Pod.MTU)
			require.Equal(t, want.Alias, host.Alias)
			require.NotZero(t, host.Flags&unix.IFF_UP)
			require.Zero(t, pod.Flags&unix.IFF_UP)
			if name == "all stated" {
				require.Equal(t, []int{1400, 1400}, []int{host.MTU, pod.MTU})
				require.Equal(t, want.Host.MAC, got.Host.MAC)
				require.Equal(t, want.Pod.MAC.String(), pod.HardwareAddr.String())
			}
		})
	}
}

func TestTheHostEndBecomesAPortOfTheBridgeWithItsFlags(t *testing.T) {
	t.Parallel()
	for _, flags := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		p := pair(t)
		index := newBridge(t, p.Host.NS, "br0")
		p.Bridge, p.Hairpin, p.Isolated = "br0", flags[0], flags[1]
		_, err := veth.Create(t.Context(), p)
		require.NoError(t, err)
		h := nstest.Netlink(t, p.Host.NS)
		l, err := h.LinkByName("host0")
		require.NoError(t, err)
		require.Equal(t, index, l.Attrs().MasterIndex)
		port, err := h.LinkGetProtinfo(l)
		require.NoError(t, err)
		require.Equal(t, flags, [2]bool{port.Hairpin, port.Isolated})
	}
}

func TestAPortHasNoLinkLocalAddressAndAnotherHostEndHas(t *testing.T) {
	t.Parallel()
	for bridge, want := range map[string]int{"br0": 0, "": 1} {
		t.Run("bridge "+bridge, func(t *testing.T) {
			t.Parallel()
			p := pair(t)
			if p.Bridge = bridge; bridge != "" {
				newBridge(t, p.Host.NS, bridge)
			}
			_, err := veth.Create(t.Context(), p)
			require.NoError(t, err)
			nstest.SetUp(t, p.Pod.NS, "eth0")
			h, hPod := nstest.Netlink(t, p.Host.NS), nstest.Netlink(t, p.Pod.NS)
			host, err := h.LinkByName("host0")
			require.NoError(t, err)
			eth, err := hPod.LinkByName("eth0")
			require.NoError(t, err)
			var addrs []netlink.Addr
			require.Eventually(t, func() bool { // the carrier has come, and with it what the kernel gives by itself
				pod, err := hPod.AddrList(eth, netlink.FAMILY_V6)
				require.NoError(t, err)
				addrs, err = h.AddrList(host, netlink.FAMILY_V6)
				require.NoError(t, err)
				host, err = h.LinkByName("host0")
				require.NoError(t, err)
				return len(pod) == 1 && len(addrs) >= want && host.Attrs().OperState == netlink.OperUp
			}, 30*time.Second, time.Millisecond)
			require.Len(t, addrs, want)
			all := &netlink.Route{LinkIndex: host.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}
			routes, err := h.RouteListFiltered(netlink.FAMILY_V6, all, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
			require.NoError(t, err)
			for _, r := range routes {
				if r.Dst.IP.IsMulticast() { // the one that the kernel gives all the same
					continue
				}
				require.NotZero(t, want, "%v", r)
			}
		})
	}
}

func TestANameThatIsTakenIsAnErrorAndWhatWasThereIsLeftAlone(t *testing.T) {
	t.Parallel()
	for taken, says := range map[string]string{"host0": `host0: the node has it already, for "somebody"`, "eth0": "has an interface of this name already"} {
		t.Run(taken, func(t *testing.T) {
			t.Parallel()
			p := pair(t)
			p.Alias = "mine"
			at := p.Host.NS
			if taken == "eth0" {
				at = p.Pod.NS
			}
			nstest.Link(t, nstest.End{NS: at, Name: taken}, nstest.End{NS: nstest.New(t), Name: "other"})
			h := nstest.Netlink(t, at)
			l, err := h.LinkByName(taken)
			require.NoError(t, err)
			require.NoError(t, h.LinkSetAlias(l, "somebody"))
			nstest.Settle(t, at)
			host, pod := nstest.Dump(p.Host.NS), nstest.Dump(p.Pod.NS)
			_, err = veth.Create(t.Context(), p)
			require.ErrorIs(t, err, fs.ErrExist)
			require.ErrorContains(t, err, says)
			require.Equal(t, host, nstest.Dump(p.Host.NS))
			require.Equal(t, pod, nstest.Dump(p.Pod.NS))
		})
	}
}

func TestACreateThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		change func(p *veth.Pair)
		is     error
		says   string
	}{
		"bridge is not there":   {change: func(p *veth.Pair) { p.Bridge = "br0" }, is: fs.ErrNotExist, says: "br0"},
		"bridge is no bridge":   {change: func(p *veth.Pair) { p.Bridge = "lo" }, is: unix.EOPNOTSUPP, says: "host0"},
		"context ended":         {ctx: cancelled, change: func(*veth.Pair) {}, is: context.Canceled},
		"alias is too long":     {change: func(p *veth.Pair) { p.Alias = strings.Repeat("a", 256) }, says: "alias of 256 bytes; want at most 255"},
		"host's name is empty":  {change: func(p *veth.Pair) { p.Host.Name = "" }, says: `interface name ""`},
		"pod's name is pattern": {change: func(p *veth.Pair) { p.Pod.Name = "eth%d" }, says: `interface name "eth%d"`},
		"name is too long":      {change: func(p *veth.Pair) { p.Pod.Name = "sixteen-letters-" }, says: "at most 15 bytes"},
		"MAC is a group":        {change: func(p *veth.Pair) { p.Pod.MAC = inet.MAC{1, 0, 0, 0, 0, 1} }, says: "eth0: MAC address 01:00:00:00:00:01 is a group's"},
		"MTU is too small":      {change: func(p *veth.Pair) { p.Host.MTU = 67 }, says: "host0: MTU 67: want 68 to 65535 bytes"},
		"MTU is too large":      {change: func(p *veth.Pair) { p.Pod.MTU = 65536 }, says: "eth0: MTU 65536: want 68 to 65535 bytes"},
		"MTU is negative":       {change: func(p *veth.Pair) { p.Pod.MTU = -1 }, says: "eth0: MTU -1"},
		"both names are equal":  {change: func(p *veth.Pair) { p.Pod = p.Host }, is: fs.ErrExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pair(t)
			host, pod := nstest.Dump(p.Host.NS), nstest.Dump(p.Pod.NS)
			c.change(&p)
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			_, err := veth.Create(c.ctx, p)
			require.ErrorContains(t, err, c.says)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			require.Equal(t, host, nstest.Dump(p.Host.NS))
			if p.Pod.NS != p.Host.NS {
				require.Equal(t, pod, nstest.Dump(p.Pod.NS))
			}
		})
	}
}

func TestDeleteFreesBothNames(t *testing.T) {
	t.Parallel()
	p := pair(t)
	host, pod := nstest.Dump(p.Host.NS), nstest.Dump(p.Pod.NS)
	for range 20 {
		made, err := veth.Create(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, veth.Delete(t.Context(), p.Host.NS, "host0"))
		require.ErrorIs(t, veth.Delete(t.Context(), p.Host.NS, "host0"), fs.ErrNotExist)
		require.ErrorIs(t, veth.DeleteIndex(t.Context(), p.Host.NS, made.Host.Index), fs.ErrNotExist)
		made, err = veth.Create(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, veth.DeleteIndex(t.Context(), p.Pod.NS, made.Pod.Index), "from the other end")
	}
	require.Equal(t, host, nstest.Dump(p.Host.NS))
	require.Equal(t, pod, nstest.Dump(p.Pod.NS))
}

func TestOnlyAnEndOfAPairIsEverDeleted(t *testing.T) {
	t.Parallel()
	p := pair(t)
	ns := p.Host.NS
	br := newBridge(t, ns, "br0")
	made, err := veth.Create(t.Context(), p)
	require.NoError(t, err)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	lo, err := nstest.Netlink(t, ns).LinkByName("lo")
	require.NoError(t, err)
	for name, index := range map[string]int{"br0": br, "lo": lo.Attrs().Index} {
		kind := map[string]string{"br0": "bridge", "lo": "network device"}[name]
		says := name + " is a " + kind + " and no end of a veth pair: it is not removed"
		require.ErrorContains(t, veth.Delete(t.Context(), ns, name), says)
		require.ErrorContains(t, veth.DeleteIndex(t.Context(), ns, index), says)
		require.ErrorContains(t, link.DeleteAll(t.Context(), ns, "veth", made.Host.Index, index), name+" is of kind")
	}
	require.ErrorContains(t, veth.DeleteIndex(t.Context(), ns, 0), "index 0: an index is positive")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, veth.Delete(ctx, ns, "host0"), context.Canceled)
	require.ErrorIs(t, veth.DeleteIndex(ctx, ns, made.Host.Index), context.Canceled)
	require.Equal(t, before, nstest.Dump(ns))
}

func TestCheckFindsThePairOrSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := pair(t)
	p.Alias = "mine"
	made, err := veth.Create(t.Context(), p)
	require.NoError(t, err)
	_, err = veth.Check(t.Context(), p)
	require.ErrorContains(t, err, "eth0 is down")
	nstest.SetUp(t, p.Pod.NS, "eth0")
	got, err := veth.Check(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, made, got)

	other := pair(t)
	other.Host.NS = p.Host.NS
	other.Host.Name = "host1"
	_, err = veth.Create(t.Context(), other)
	require.NoError(t, err)
	nstest.SetUp(t, other.Pod.NS, "eth0")
	for says, change := range map[string]func(p *veth.Pair){
		`host0 has the alias "mine"; want "yours"`: func(p *veth.Pair) { p.Alias = "yours" },
		"eth0 has MAC":                       func(p *veth.Pair) { p.Pod.MAC = inet.MAC{2} },
		"host0 has MTU 1500; want 1400":      func(p *veth.Pair) { p.Host.MTU = 1400 },
		"eth0 is not the other end of host0": func(p *veth.Pair) { p.Pod.NS = other.Pod.NS },
		"find link nowhere: no such device":  func(p *veth.Pair) { p.Host.Name = "nowhere" },
		"find link eth1: no such device":     func(p *veth.Pair) { p.Pod.Name = "eth1" },
	} {
		wrong := p
		change(&wrong)
		_, err := veth.Check(t.Context(), wrong)
		require.ErrorContains(t, err, says)
	}
	wrong := p
	wrong.Pod = veth.End{NS: p.Pod.NS, Name: "lo"}
	_, err = veth.Check(t.Context(), wrong)
	require.ErrorContains(t, err, "lo is not the other end of host0")
}

func TestCheckTellsEveryDifferenceTheWorstFirst(t *testing.T) {
	t.Parallel()
	node, pod := nstest.New(t), nstest.New(t)
	p, err := veth.Create(t.Context(), veth.Pair{Host: veth.End{NS: node, Name: "h"}, Pod: veth.End{NS: pod, Name: "p"}, Alias: "mine"})
	require.NoError(t, err)
	p.Alias, p.Host.MTU = "theirs", 1400
	_, err = veth.Check(t.Context(), p)
	require.EqualError(t, err, "h has MTU 1500; want 1400\np is down\nh has the alias \"mine\"; want \"theirs\"")
	p.Pod.Name = "nowhere"
	_, err = veth.Check(t.Context(), p)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Regexp(t, `(?s)^[^\n]*nowhere.*\nh has MTU 1500; want 1400\nh has the alias`, err.Error())
}

func TestAPairThatCannotBeMadeHasOneCause(t *testing.T) {
	t.Parallel()
	node, pod := nstest.New(t), nstest.New(t)
	_, err := veth.CreateOn(t.Context(), veth.Pair{Host: veth.End{NS: node, Name: "h"}, Pod: veth.End{NS: pod, Name: "p"}, Alias: "mine"}, 4711)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n", "that the alias finds no link is no cause")
}
