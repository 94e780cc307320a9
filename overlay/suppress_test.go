//go:build linux

package overlay_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

const etherARP = 0x0806

// arpSocket sends and receives frames on a link; on the port of a bridge only a socket for all protocols sees some.
func arpSocket(t *testing.T, ns *netns.NS, link string) int {
	t.Helper()
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	l, err := c.LinkByName(link)
	require.NoError(t, err)
	fd, err := ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	proto := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: l.Index}))
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	return fd
}

// asked reads for which addresses somebody asked, until he asked for the last one.
func asked(t *testing.T, fd int, by, last netip.Addr) (all []netip.Addr) {
	t.Helper()
	const ethernet, size = 14, 28
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		require.NoError(t, err, "waiting for %s to ask for %s, who asked for %v", by, last, all)
		if n < ethernet+size || binary.BigEndian.Uint16(b[12:]) != etherARP {
			continue
		}
		arp := b[ethernet : ethernet+size]
		sender, target := netip.AddrFrom4([4]byte(arp[14:18])), netip.AddrFrom4([4]byte(arp[24:28]))
		if binary.BigEndian.Uint16(arp[6:]) == 1 && sender == by {
			all = append(all, target)
			if target == last {
				return all
			}
		}
	}
}

// announce sends a gratuitous ARP request of a pod's address.
func announce(t *testing.T, p pod) {
	t.Helper()
	l, err := nstest.Netlink(t, p.ns).LinkByName("eth0")
	require.NoError(t, err)
	mac, v4 := l.Attrs().HardwareAddr, p.v4.As4()
	frame := slices.Concat(bytes.Repeat([]byte{0xff}, 6), mac, []byte{etherARP >> 8, etherARP & 0xff},
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac, v4[:], make([]byte, 6), v4[:])
	_, err = unix.Write(arpSocket(t, p.ns, "eth0"), frame)
	require.NoError(t, err)
}

// knowForGood has an address of another pod never asked for: a question of the gateway or a pod tells the asked one who
// asks, who then needs no question of his own.
func knowForGood(t *testing.T, ns *netns.NS, link string, p pod) {
	t.Helper()
	l, err := nstest.Netlink(t, p.ns).LinkByName("eth0")
	require.NoError(t, err)
	ip(t, ns, "neigh replace "+p.v4.String()+" lladdr "+l.Attrs().HardwareAddr.String()+" nud permanent dev "+link)
}

func askAnew(t *testing.T, p pod, to netip.Addr) {
	t.Helper()
	ip(t, p.ns, "neigh flush dev eth0")
	require.NoError(t, nstest.Ping(t.Context(), p.ns, to, ping.Options{Timeout: patience}))
}

// TestQuestionsWhoseAnswerTheNodeKnowsStayOutOfTheTunnelIfSuppressed listens on the far end of a tunnel.
func TestQuestionsWhoseAnswerTheNodeKnowsStayOutOfTheTunnelIfSuppressed(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]struct {
		encap func(overlay.L2) overlay.Encap
		need  nstest.Feature
	}{
		"vxlan": {func(l overlay.L2) overlay.Encap { return overlay.VXLAN{L2: l} }, nstest.VXLAN},
		"gre":   {func(l overlay.L2) overlay.Encap { return overlay.GRE{L2: l} }, nstest.GRETap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need, nstest.Bridge)
			c := newCluster(t, 2)
			a, b := c.nodes[0], c.nodes[1]
			v4 := func(o *overlay.Options) { o.Underlay = inet.IPv4 }
			for _, n := range c.nodes {
				n.addBridge(t)
			}
			c.up(s.encap(overlay.L2{Bridge: "cni0"}), v4)
			for _, n := range c.nodes {
				n.plug(t, n.net.MTU(peer.Peer{}))
			}
			self, err := b.net.Ensure(t.Context())
			require.NoError(t, err)
			far := self.Devices[0]
			gateway := a.Pods[0].Addr().Next()
			asker, known, unknown := a.pods[0], b.pods[0], b.pods[1]
			knowForGood(t, a.ns, "cni0", asker)
			knowForGood(t, known.ns, "eth0", asker)
			knowForGood(t, unknown.ns, "eth0", asker)
			hear := func() []netip.Addr {
				fd := arpSocket(t, b.ns, far)
				require.NoError(t, nstest.Ping(t.Context(), a.ns, known.v4, ping.Options{Timeout: patience}))
				askAnew(t, asker, gateway)
				askAnew(t, asker, known.v4)
				announce(t, asker)
				ip(t, a.ns, "neigh flush to "+unknown.v4.String())
				askAnew(t, asker, unknown.v4)
				return asked(t, fd, asker.v4, unknown.v4)
			}

			heard := hear()
			for _, addr := range []netip.Addr{gateway, known.v4, asker.v4} {
				require.Contains(t, heard, addr, "off, unless it is asked for")
			}

			a.open(t, s.encap(overlay.L2{Bridge: "cni0", NeighSuppress: true}), v4)
			require.NoError(t, checkAfterWant(t, a, c.peers(), "its place on the bridge"))
			heard = hear()
			for _, addr := range []netip.Addr{gateway, known.v4, asker.v4} {
				require.NotContains(t, heard, addr)
			}
			for _, p := range b.pods {
				c.pings(asker.ns, p, "over both families", nil)
				c.pings(p.ns, asker, "over both families", nil)
			}

			a.open(t, s.encap(overlay.L2{Bridge: "cni0"}), v4)
			require.NoError(t, checkAfterWant(t, a, c.peers(), "its place on the bridge"))
			require.Contains(t, hear(), gateway, "off again")
		})
	}
}

// checkAfterWant sees that Check tells what differs from a changed configuration, has it mended and checks again.
func checkAfterWant(t *testing.T, n *node, peers []peer.Peer, says string) error {
	t.Helper()
	n.net.Want(peers)
	require.ErrorContains(t, n.net.Check(t.Context()), says)
	require.NoError(t, n.net.Set(t.Context(), peers))
	return n.net.Check(t.Context())
}

func TestSuppressionIsRefusedWhereItCouldHideWhatChanges(t *testing.T) {
	t.Parallel()
	_, err := overlay.Config{Encap: "vxlan", NeighSuppress: true}.Encapsulation()
	require.ErrorContains(t, err, `"neighSuppress" without "l2"`)
	_, err = overlay.Config{Encap: "gre", L2: true, Bridge: "cni0", AllowUplink: true, NeighSuppress: true}.Encapsulation()
	require.ErrorContains(t, err, `"neighSuppress" with "allowUplink"`)
	_, err = overlay.Config{Encap: "ipip", NeighSuppress: true}.Encapsulation()
	require.Error(t, err)
	e, err := overlay.Config{Encap: "vxlan", L2: true, Bridge: "cni0", NeighSuppress: true}.Encapsulation()
	require.NoError(t, err)
	require.Equal(t, overlay.VXLAN{L2: overlay.L2{Bridge: "cni0", NeighSuppress: true}}, e)
}
