//go:build linux

package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// foreign makes a bridge as another program would.
func foreign(t *testing.T, ns *netns.NS, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	br := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, nstest.Netlink(t, ns).LinkAdd(br))
	return br
}

func look(t *testing.T, ns *netns.NS, name string) *netlink.LinkAttrs {
	t.Helper()
	l, err := nstest.Netlink(t, ns).LinkByName(name)
	require.NoError(t, err)
	return l.Attrs()
}

func TestEnsureMakesTheBridgeAndReturnsWhatItIs(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	want := bridge.Bridge{Name: "br0", MTU: 1400, Alias: "cniblocks/net", Promisc: true}
	s, err := bridge.Ensure(t.Context(), ns, want)
	require.NoError(t, err)
	require.True(t, s.New && s.Ours && s.Up && s.Promisc)
	a := look(t, ns, "br0")
	require.Equal(t, a.Index, s.Index)
	require.Equal(t, a.HardwareAddr.String(), s.MAC.String())
	require.Equal(t, 1400, a.MTU)
	require.Equal(t, "cniblocks/net", a.Alias)
	require.NotZero(t, a.RawFlags&unix.IFF_UP)
	require.Equal(t, 1, a.Promisc)
	require.EqualValues(t, bridge.Group, a.Group)
	for key, want := range map[string]string{"accept_ra": "0", "accept_dad": "0"} {
		v, err := sysctl.Get(ns, "net/ipv6/conf/br0/"+key)
		require.NoError(t, err)
		require.Equal(t, want, v, key)
	}
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	again, err := bridge.Ensure(t.Context(), ns, want)
	require.NoError(t, err)
	s.New = false
	require.Equal(t, s, again)
	require.Equal(t, before, nstest.Dump(ns))
	checked, err := bridge.Check(t.Context(), ns, want)
	require.NoError(t, err)
	require.Equal(t, s, checked)
}

func TestTheMACOfANewBridgeStaysWhenPortsComeAndGo(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	require.EqualValues(t, 2, s.MAC[0]&3, "locally administered, unicast")
	h := nstest.Netlink(t, ns)
	nstest.Link(t, nstest.End{NS: ns, Name: "port"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	port, err := h.LinkByName("port")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetHardwareAddr(port, []byte{2, 0, 0, 0, 0, 1})) // lower than any by chance
	require.NoError(t, h.LinkSetMasterByIndex(port, s.Index))
	require.Equal(t, s.MAC.String(), look(t, ns, "br0").HardwareAddr.String())
	require.NoError(t, h.LinkDel(port))
	require.Equal(t, s.MAC.String(), look(t, ns, "br0").HardwareAddr.String())
}

func TestABridgeThatWasThereIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	foreign(t, ns, "br0")
	s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", MTU: 1400, Alias: "mine"})
	require.NoError(t, err)
	require.False(t, s.Ours || s.New)
	require.True(t, s.Up, "it was down, and a bridge that is down carries nothing")
	a := look(t, ns, "br0")
	require.Equal(t, 1500, a.MTU)
	require.Empty(t, a.Alias)
	require.Zero(t, a.Group)
	v, err := sysctl.Get(ns, "net/ipv6/conf/br0/accept_ra")
	require.NoError(t, err)
	require.Equal(t, "1", v)

	nstest.Link(t, nstest.End{NS: ns, Name: "port"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	h := nstest.Netlink(t, ns)
	port, err := h.LinkByName("port")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetMasterByIndex(port, a.Index))
	s, err = bridge.Get(t.Context(), ns, "br0")
	require.NoError(t, err)
	require.NoError(t, bridge.PinMAC(t.Context(), ns, s))
	require.NoError(t, h.LinkDel(port))
	require.Equal(t, s.MAC.String(), look(t, ns, "br0").HardwareAddr.String(), "pinned")
}

func TestADeviceOfAnotherKindIsNamed(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "veth0"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	for name, says := range map[string]string{"veth0": "veth0 is a veth, not a bridge", "lo": "lo is a network device, not a bridge"} {
		for _, f := range []func(context.Context, *netns.NS, bridge.Bridge) (bridge.State, error){bridge.Ensure, bridge.Check} {
			_, err := f(t.Context(), ns, bridge.Bridge{Name: name})
			require.ErrorIs(t, err, bridge.ErrNotBridge)
			require.ErrorContains(t, err, says)
		}
	}
	_, err := bridge.Get(t.Context(), ns, "nowhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = bridge.Check(t.Context(), ns, bridge.Bridge{Name: "nowhere"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, before, nstest.Dump(ns))
}

func TestABadNameOrAContextThatEndedMakesNothing(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	before := nstest.Dump(ns)
	for _, name := range []string{"", "br%d", "a/b", "sixteen-letters-", "a b"} {
		_, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: name})
		require.ErrorContains(t, err, "interface name", name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := bridge.Ensure(ctx, ns, bridge.Bridge{Name: "br0"})
	require.ErrorIs(t, err, context.Canceled)
	for _, mtu := range []int{-1, 67, 65536} {
		_, err = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", MTU: mtu})
		require.ErrorContains(t, err, fmt.Sprintf("br0: MTU %d: want 68 to 65535 bytes", mtu))
	}
	_, err = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", Alias: strings.Repeat("a", 256)})
	require.ErrorContains(t, err, "br0: alias of 256 bytes; want at most 255")
	require.Equal(t, before, nstest.Dump(ns))
}

func TestManyWhoMakeOneBridgeAtOnceGetTheSame(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	const n = 16
	var wg sync.WaitGroup
	states, errs := make([]bridge.State, n), make([]error, n)
	for i := range n {
		wg.Go(func() { states[i], errs[i] = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", Alias: "x"}) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for _, s := range states {
		require.Equal(t, states[0].Index, s.Index)
		require.Equal(t, states[0].MAC, s.MAC)
		require.True(t, s.Up)
	}
}

func TestABridgeWhoseMakerWasKilledIsCompleted(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	br := foreign(t, ns, "br0")
	require.NoError(t, nstest.Netlink(t, ns).LinkSetGroup(br, bridge.Group))
	s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", Alias: "cniblocks/net"})
	require.NoError(t, err)
	require.True(t, s.Ours && s.Up)
	require.Equal(t, "cniblocks/net", look(t, ns, "br0").Alias)
	v, err := sysctl.Get(ns, "net/ipv6/conf/br0/accept_ra")
	require.NoError(t, err)
	require.Equal(t, "0", v)
}

func TestCheckSaysWhatTheBridgeLacks(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	_, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	_, err = bridge.Check(t.Context(), ns, bridge.Bridge{Name: "br0", Promisc: true})
	require.ErrorContains(t, err, "bridge br0 is not in promiscuous mode")
	_, err = bridge.Check(t.Context(), ns, bridge.Bridge{Name: "br0", VLANFiltering: true})
	require.ErrorContains(t, err, "bridge br0 does not filter VLANs")
	_, err = bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0", Promisc: true})
	require.NoError(t, err)
	_, err = bridge.Check(t.Context(), ns, bridge.Bridge{Name: "br0", Promisc: true})
	require.NoError(t, err)
	h := nstest.Netlink(t, ns)
	l, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetDown(l))
	_, err = bridge.Check(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.ErrorContains(t, err, "bridge br0 is down")
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func gateways(list ...netip.Prefix) (out []bridge.Gateway) {
	for _, p := range list {
		out = append(out, bridge.GatewayAt(p))
	}
	return out
}

func TestAGatewayThatIsNoAddressIsNamed(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	br, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	good := bridge.GatewayAt(netip.MustParsePrefix("192.0.2.1/24"))
	for _, bad := range []bridge.Gateway{{}, {Addr: good.Addr}, {Subnet: good.Subnet}, {Addr: good.Addr, Subnet: netip.MustParsePrefix("2001:db8::/64")}} {
		_, err = bridge.Gateways{NS: ns, Index: br.Index, Name: br.Name}.Ensure(t.Context(), true, good, bad)
		require.ErrorContains(t, err, "br0: gateway "+bad.Addr.String()+" of subnet "+bad.Subnet.String()+": want an address and a subnet of one family")
	}
	require.Equal(t, before, nstest.Dump(ns))
}

func TestGatewaysAreAddedOnce(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	want := prefixes("10.1.2.1/24", "fd00:1:2::1/64")
	d := bridge.Gateways{NS: ns, Index: s.Index, Name: "br0"}
	require.ErrorContains(t, d.Check(t.Context(), gateways(want...)...), "br0 does not have the gateway address 10.1.2.1/24")
	added, err := d.Ensure(t.Context(), false, gateways(want...)...)
	require.NoError(t, err)
	require.Equal(t, want, added)
	require.NoError(t, d.Check(t.Context(), gateways(want...)...))
	require.NoError(t, addr.Check(t.Context(), ns, "br0", want...))
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	added, err = d.Ensure(t.Context(), false, gateways(want...)...)
	require.NoError(t, err)
	require.Empty(t, added)
	require.Equal(t, before, nstest.Dump(ns))
}

func TestAnAddressInTheWayConflictsOrGoesByForce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		have, want string
		ours       bool // the address that stands there is of this library
		conflict   bool
		goes       bool // it is a former gateway of ours that no pod uses
	}{
		"another IPv4 network":               {have: "192.0.2.1/24", want: "10.1.2.1/24", conflict: true},
		"another IPv4 network of ours":       {have: "192.0.2.1/24", want: "10.1.2.1/24", ours: true, goes: true},
		"another host of the network":        {have: "10.1.2.254/24", want: "10.1.2.1/24", conflict: true},
		"another host of the network, ours":  {have: "10.1.2.254/24", want: "10.1.2.1/24", ours: true, goes: true},
		"the same with another length, ours": {have: "fd00:1::1/128", want: "fd00:1::1/64", ours: true, goes: true},
		"the same with another length":       {have: "10.1.2.1/16", want: "10.1.2.1/24", conflict: true},
		"another IPv6 network":               {have: "2001:db8::1/64", want: "fd00:1::1/64"},
		"an overlapping IPv6 network":        {have: "fd00::1/16", want: "fd00:1::1/64", conflict: true},
		"the same IPv6 with another length":  {have: "fd00:1::1/128", want: "fd00:1::1/64", conflict: true},
		"the other family":                   {have: "192.0.2.1/24", want: "fd00:1::1/64"},
		"link-local":                         {have: "fe80::1234/64", want: "fd00:1::1/64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := nstest.New(t)
			s, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
			require.NoError(t, err)
			if c.ours {
				require.NoError(t, link.Apply(t.Context(), ns, addr.Add(s.Index, netip.MustParsePrefix(c.have))))
			} else {
				nstest.AddAddrs(t, ns, "br0", c.have)
			}
			nstest.Settle(t, ns)
			before := nstest.Dump(ns)
			d := bridge.Gateways{NS: ns, Index: s.Index, Name: "br0"}
			_, err = d.Ensure(t.Context(), false, gateways(prefixes(c.want)...)...)
			if c.conflict {
				require.ErrorIs(t, err, bridge.ErrConflict)
				require.ErrorContains(t, err, "br0 has the address "+c.have+", which is in the way of "+c.want)
				require.Equal(t, before, nstest.Dump(ns))
				_, err = d.Ensure(t.Context(), true, gateways(prefixes(c.want)...)...)
				require.Error(t, addr.Check(t.Context(), ns, "br0", prefixes(c.have)...), "it is gone")
			} else if c.goes {
				require.Error(t, addr.Check(t.Context(), ns, "br0", prefixes(c.have)...), "it is gone")
			} else {
				require.NoError(t, addr.Check(t.Context(), ns, "br0", prefixes(c.have)...), "it stays")
			}
			require.NoError(t, err)
			require.NoError(t, d.Check(t.Context(), gateways(prefixes(c.want)...)...))
		})
	}
}

func TestABridgeIsDeletedAndNothingElse(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	ns := nstest.New(t)
	before := nstest.DumpLinks(ns)
	require.ErrorIs(t, bridge.Delete(t.Context(), ns, "br0"), fs.ErrNotExist)
	require.ErrorIs(t, bridge.Delete(t.Context(), ns, "lo"), bridge.ErrNotBridge)
	_, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: "br0"})
	require.NoError(t, err)
	require.NoError(t, bridge.Delete(t.Context(), ns, "br0"))
	require.Equal(t, before, nstest.DumpLinks(ns))
}
