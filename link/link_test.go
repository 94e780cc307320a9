//go:build linux

package link_test

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/route"
)

// pair is a namespace with one end, eth0, and the namespace of the other, host.
func pair(t *testing.T) (ns *netns.NS, eth0 link.Link) {
	t.Helper()
	ns = nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0"}, nstest.End{NS: nstest.New(t), Name: "host"})
	eth0, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	return ns, eth0
}

func TestALinkIsReadAsTheKernelHasIt(t *testing.T) {
	t.Parallel()
	ns, eth0 := pair(t)
	want, err := nstest.Netlink(t, ns).LinkByName("eth0") // the second opinion
	require.NoError(t, err)
	a := want.Attrs()
	require.Equal(t, []any{a.Index, a.MTU, a.HardwareAddr.String(), "veth", true}, []any{eth0.Index, eth0.MTU, eth0.MAC.String(), eth0.Kind, eth0.Up})
	at, err := link.At(t.Context(), ns, eth0.Index)
	require.NoError(t, err)
	require.Equal(t, eth0.Name, at.Name)
	all, err := link.List(t.Context(), ns, "")
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "lo", all[0].Name)
	require.Empty(t, all[0].Kind)
	veths, err := link.List(t.Context(), ns, "veth")
	require.NoError(t, err)
	require.Len(t, veths, 1)
	_, err = link.Get(t.Context(), ns, "nowhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = link.At(t.Context(), ns, 4711)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOneCallSetsALinkUpWithAddressAndRoute(t *testing.T) {
	t.Parallel()
	ns, eth0 := pair(t)
	mac := link.MACFor("net", "x")
	err := link.Apply(t.Context(), ns, link.Set(eth0.Index, link.Settings{MTU: 1400, Alias: "mine", MAC: mac, Up: true}),
		addr.Add(eth0.Index, netip.MustParsePrefix("10.1.0.2/24")), route.Add(eth0.Index, route.Route{Dst: inet.IPv4.Default(), Via: netip.MustParseAddr("10.1.0.1")}))
	require.NoError(t, err)
	now, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	require.Equal(t, []any{1400, "mine", mac, true}, []any{now.MTU, now.Alias, now.MAC, now.Up})
	require.NoError(t, addr.Check(t.Context(), ns, "eth0", netip.MustParsePrefix("10.1.0.2/24")))
	require.NoError(t, route.CheckLink(t.Context(), ns, "eth0", route.Route{Dst: inet.IPv4.Default(), Via: netip.MustParseAddr("10.1.0.1")}))
}

type stranger struct{}

func (stranger) String() string { return "make coffee" }

func TestAMalformedChangeKeepsAllFromBeingDone(t *testing.T) {
	t.Parallel()
	ns, eth0 := pair(t)
	nstest.Settle(t, ns)
	before := nstest.Dump(ns)
	good := link.Set(eth0.Index, link.Settings{MTU: 1300})
	for want, bad := range map[string]link.Change{
		"make coffee: a link_test.stranger is no change": stranger{},
		"want at most 255": link.Set(eth0.Index, link.Settings{Alias: strings.Repeat("a", 256)}),
		"so says the test": link.Malformed(errors.New("so says the test")),
		"<nil>":            nil,
	} {
		require.ErrorContains(t, link.Apply(t.Context(), ns, good, bad), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, link.Apply(ctx, ns, good), context.Canceled)
	require.ErrorContains(t, link.Apply(t.Context(), nil, good), "no network namespace is given")
	require.Equal(t, before, nstest.Dump(ns))
}

func TestOneThatFailsDoesNotKeepTheOthersFromBeingDone(t *testing.T) {
	t.Parallel()
	ns, eth0 := pair(t)
	err := link.Apply(t.Context(), ns, link.Up(4711), link.Set(eth0.Index, link.Settings{MTU: 1300}))
	require.ErrorIs(t, err, fs.ErrNotExist)
	now, err := link.Get(t.Context(), ns, "eth0")
	require.NoError(t, err)
	require.Equal(t, 1300, now.MTU)
}

func TestOnlyALinkOfTheKindIsDeleted(t *testing.T) {
	t.Parallel()
	ns, _ := pair(t)
	require.ErrorContains(t, link.Delete(t.Context(), ns, "eth0", "bridge"), `eth0 is of kind "veth", not "bridge"`)
	require.NoError(t, link.Delete(t.Context(), ns, "eth0", "veth"))
	require.ErrorIs(t, link.Delete(t.Context(), ns, "eth0", "veth"), fs.ErrNotExist)
}
