//go:build linux

package link_test

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// node is a namespace with a device to stand on, uplink, and one named eth0.
func node(t *testing.T) (ns *netns.NS, lower link.Lower) {
	t.Helper()
	ns = nstest.New(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "uplink"}, nstest.End{NS: nstest.New(t), Name: "wire"})
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0"}, nstest.End{NS: nstest.New(t), Name: "wire"})
	l, err := link.Get(t.Context(), ns, "uplink")
	require.NoError(t, err)
	nstest.Settle(t, ns)
	return ns, link.Lower{NS: ns, Index: l.Index}
}

// kinds are those of [link.Create], each with what it needs of the kernel and whether it stands on another.
var kinds = []struct {
	feature nstest.Feature
	kind    link.Kind
	lower   bool
	mac     bool // it takes one
}{
	{"dummy", link.Dummy{}, false, true},
	{"ifb", link.IFB{}, false, true},
	{"ipvlan", link.IPVLAN{Mode: "l2"}, true, false},
	{"ipvlan", link.IPVLAN{Mode: "l3s"}, true, false},
	{"macvlan", link.Macvlan{Mode: "bridge", BCQueueLen: 1000}, true, true},
	{"macvlan", link.Macvlan{Mode: "passthru", BCQueueLen: 4000}, true, true},
	{"tun", link.Tap{}, false, true},
	{"tun", link.Tap{Owner: link.ID{Number: 0, Valid: true}, Group: link.ID{Number: 107, Valid: true}, MultiQueue: true}, false, true},
	{"vlan", link.VLAN{ID: 4094}, true, true},
	{"vrf", link.VRF{Table: 1500}, false, true},
}

func TestALinkOfEachKindIsMadeInItsPlaceAsItIsStated(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.kind.String(), func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, k.feature)
			node, lower := node(t)
			pod := nstest.New(t)
			if k.kind.Type() == "vrf" { // the first of a namespace brings rules, which stay
				_, err := link.Create(t.Context(), pod, link.Spec{Name: "first", Kind: k.kind})
				require.NoError(t, err)
				require.NoError(t, link.Delete(t.Context(), pod, "first", "vrf"))
			}
			before, inPod := nstest.Dump(node), nstest.Dump(pod)
			s := link.Spec{Name: "eth0", Kind: k.kind, MTU: 1400, Alias: link.Alias("net", "c1", "eth0"), Group: link.Group, Up: true}
			if k.lower {
				s.Lower = lower
			}
			if k.mac {
				s.MAC = inet.MAC{2, 0, 0, 0, 0, 1}
			}
			made, err := link.Create(t.Context(), pod, s)
			require.NoError(t, err)
			l, err := nstest.Netlink(t, pod).LinkByName("eth0") // the second opinion
			require.NoError(t, err)
			a := l.Attrs()
			require.Equal(t, []any{a.Index, k.kind.Type(), 1400, s.Alias, s.Group, true}, []any{made.Index, made.Kind, made.MTU, made.Alias, made.Group, made.Up})
			require.Equal(t, []any{made.Kind, 1400, s.Alias, a.HardwareAddr.String()}, []any{strings.Replace(l.Type(), "tuntap", "tun", 1), a.MTU, a.Alias, made.MAC.String()})
			require.NotZero(t, a.RawFlags&unix.IFF_UP)
			require.Equal(t, k.kind, made.Details)
			require.Equal(t, s.Lower.Index, made.Lower)
			if k.mac && made.Details != (link.Macvlan{Mode: "passthru", BCQueueLen: 4000}) { // which has its lower device's
				require.Equal(t, s.MAC, made.MAC)
			}
			_, err = link.Create(t.Context(), pod, s)
			require.ErrorIs(t, err, fs.ErrExist)
			again, err := link.Get(t.Context(), pod, "eth0")
			require.NoError(t, err)
			require.Equal(t, made.Index, again.Index)

			require.True(t, made.Is(k.kind), "%s, %s", made.Details, k.kind)
			other := s
			other.Alias = "another's"
			require.NoError(t, link.Remove(t.Context(), pod, other))
			other = s
			other.Kind = link.VRF{Table: 5}
			if k.kind.Type() == "vrf" {
				other.Kind = link.IFB{}
			}
			require.NoError(t, link.Remove(t.Context(), pod, other))
			_, err = link.Get(t.Context(), pod, "eth0")
			require.NoError(t, err, "it is neither another's nor of another kind")
			require.NoError(t, link.Remove(t.Context(), pod, s))
			require.NoError(t, link.Remove(t.Context(), pod, s), "none is fine")
			require.Equal(t, before, nstest.Dump(node))
			require.Equal(t, inPod, nstest.Dump(pod))
		})
	}
}

func TestALinkStandsOnADeviceOfItsOwnNamespaceOrOfAnother(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Macvlan)
	node, lower := node(t)
	s := link.Spec{Name: "mac0", Kind: link.Macvlan{}, Lower: lower, Alias: "a"}
	here, err := link.Create(t.Context(), node, s)
	require.NoError(t, err)
	require.False(t, here.Up)
	pod := nstest.New(t)
	there, err := link.Create(t.Context(), pod, s)
	require.NoError(t, err)
	require.NotEqual(t, here.MAC, there.MAC)
	for _, l := range []link.Link{here, there} {
		require.Equal(t, []any{"mac0", "a", lower.Index, "bridge"}, []any{l.Name, l.Alias, l.Lower, l.Details.(link.Macvlan).Mode})
	}
	s.Name, s.Lower.Index = "mac1", 4711
	_, err = link.Create(t.Context(), pod, s)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestRemoveTakesWhatAKilledCreateLeftAndNothingElseWithoutAnAlias(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Macvlan)
	_, lower := node(t)
	pod := nstest.New(t)
	before := nstest.Dump(pod)
	for _, name := range []string{"eth0", link.Interim("eth0", "mine")} {
		made, err := link.Create(t.Context(), pod, link.Spec{Name: name, Kind: link.Macvlan{}, Lower: lower})
		require.NoError(t, err)
		s := link.Spec{Name: "eth0", Kind: link.Macvlan{Mode: "vepa"}, Alias: "mine"}
		require.NoError(t, link.Remove(t.Context(), pod, s), "another mode")
		s.Kind, s.MAC = link.Macvlan{Mode: "bridge"}, inet.MAC{2}
		require.NoError(t, link.Remove(t.Context(), pod, s), "another MAC")
		require.NotEqual(t, before, nstest.Dump(pod))
		s.MAC = made.MAC
		require.NoError(t, link.Remove(t.Context(), pod, s))
		require.Equal(t, before, nstest.Dump(pod))
	}
}

func TestAKernelSaysWhichKindsItCanMake(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	before := nstest.Dump(ns)
	for _, k := range kinds {
		require.Equal(t, nstest.Has(k.feature), link.Supported(t.Context(), ns, k.kind) == nil, k.kind)
	}
	require.ErrorContains(t, link.Supported(t.Context(), ns, nil), "no kind of link is given")
	require.Equal(t, before, nstest.Dump(ns))
}

func TestALinkBecomesAPortAsItIsMade(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IFB, nstest.Bridge, nstest.Tun)
	ns := nstest.New(t)
	br := nstest.Run(t, ns, "ip", "link", "add", "br0", "type", "bridge")
	require.Empty(t, br)
	b, err := link.Get(t.Context(), ns, "br0")
	require.NoError(t, err)
	for name, kind := range map[string]link.Kind{"i": link.IFB{}, "t": link.Tap{}} {
		l, err := link.Create(t.Context(), ns, link.Spec{Name: name, Kind: kind, Master: b.Index})
		require.NoError(t, err)
		require.Equal(t, b.Index, l.Master)
	}
}

func TestATapThatCannotBecomeAPortIsGone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Tun)
	ns := nstest.New(t)
	before := nstest.Dump(ns)
	_, err := link.Create(t.Context(), ns, link.Spec{Name: "tap0", Kind: link.Tap{}, Master: 4711})
	require.ErrorContains(t, err, "change link tap0: ")
	require.Equal(t, before, nstest.Dump(ns))
}

func TestATapStaysAndIsOpenedByItsOwnerAlone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Tun)
	ns := nstest.New(t)
	_, err := link.Create(t.Context(), ns, link.Spec{Name: "tap0", Kind: link.Tap{Owner: link.ID{Number: 1000, Valid: true}}})
	require.NoError(t, err)
	open := func(uid int) error {
		return ns.Do(func() error { // on a thread that ends with it
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			require.NoError(t, err)
			f := os.NewFile(uintptr(fd), "tun")
			defer f.Close()
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return e
			}
			req, err := unix.NewIfreq("tap0")
			require.NoError(t, err)
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		})
	}
	require.NoError(t, open(1000))
	require.ErrorIs(t, open(1001), unix.EPERM)
}

func TestACreateThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	node, lower := node(t)
	pod := nstest.New(t)
	_, err := veth.Create(t.Context(), veth.Pair{Host: veth.End{NS: node, Name: "h"}, Pod: veth.End{NS: pod, Name: "taken"}})
	require.NoError(t, err)
	nstest.Settle(t, node)
	before, inPod := nstest.Dump(node), nstest.Dump(pod)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for says, c := range map[string]struct {
		ctx    context.Context
		change func(s *link.Spec)
	}{
		"no kind of link is given":         {change: func(s *link.Spec) { s.Kind = nil }},
		`interface name ""`:                {change: func(s *link.Spec) { s.Name = "" }},
		`interface name "eth%d"`:           {change: func(s *link.Spec) { s.Name = "eth%d" }},
		"taken: " + pod.Path() + " has an": {change: func(s *link.Spec) { s.Name = "taken" }},
		"MTU 67: want 68":                  {change: func(s *link.Spec) { s.MTU = 67 }},
		"want at most 255":                 {change: func(s *link.Spec) { s.Alias = strings.Repeat("a", 256) }},
		"is a group's":                     {change: func(s *link.Spec) { s.MAC[0] = 1 }},
		`mode "hub": want "bridge", "private", "vepa", "passthru"`: {change: func(s *link.Spec) { s.Kind = link.Macvlan{Mode: "hub"} }},
		`mode "l4": want "l2", "l3", "l3s"`:                        {change: func(s *link.Spec) { s.Kind = link.IPVLAN{Mode: "l4"} }},
		"vlan new: VLAN ID 0: want 1 to 4094":                      {change: func(s *link.Spec) { s.Kind = link.VLAN{} }},
		"VLAN ID 4095: want 1 to 4094":                             {change: func(s *link.Spec) { s.Kind = link.VLAN{ID: 4095} }},
		"table 0: want":                                            {change: func(s *link.Spec) { s.Kind = link.VRF{} }},
		"context canceled":                                         {ctx: cancelled, change: func(*link.Spec) {}},
	} {
		s := link.Spec{Name: "new", Kind: link.Macvlan{}, Lower: lower, Alias: "mine"}
		c.change(&s)
		if c.ctx == nil {
			c.ctx = t.Context()
		}
		_, err := link.Create(c.ctx, pod, s)
		require.ErrorContains(t, err, says)
		require.Equal(t, before, nstest.Dump(node), says)
		require.Equal(t, inPod, nstest.Dump(pod), says)
	}
}
