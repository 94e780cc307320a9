//go:build linux

package portmap_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/portmap"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// world is a node with pods on a bridge, and a machine outside that knows no way to them.
type world struct {
	node, outside *netns.NS
	pods          []*netns.NS
}

func newWorld(t *testing.T, pods int) world {
	t.Helper()
	w := world{node: nstest.New(t)}
	w.outside = lab.Node(t, w.node, 1)
	nstest.Forward(t, w.node)
	nstest.Run(t, w.node, "ip", "link", "add", "br0", "type", "bridge")
	nstest.SetUp(t, w.node, "br0")
	nstest.AddAddrs(t, w.node, "br0", "10.1.0.1/24", "fd00:1::1/64")
	for i := range pods {
		w.add(t, i)
	}
	return w
}

// add attaches a pod with 10.1.0.2+i and fd00:1::2+i, whose host end is h<i>.
func (w *world) add(t *testing.T, i int) {
	t.Helper()
	pod := nstest.New(t)
	host := fmt.Sprint("h", i)
	nstest.Link(t, nstest.End{NS: w.node, Name: host},
		nstest.End{NS: pod, Name: "eth0", Addrs: []string{fmt.Sprintf("10.1.0.%d/24", 2+i), fmt.Sprintf("fd00:1::%d/64", 2+i)}})
	nstest.Run(t, w.node, "ip", "link", "set", host, "master", "br0")
	nstest.Run(t, w.node, "bridge", "link", "set", "dev", host, "hairpin", "on")
	nstest.AddRoute(t, pod, "default", "10.1.0.1")
	nstest.AddRoute(t, pod, "default", "fd00:1::1")
	w.pods = append(w.pods, pod)
}

// pod has the host ports of the i-th pod: port to 80, of every protocol in protos, on every address of both families.
func pod(i int, port uint16, protos ...portmap.Proto) portmap.Pod {
	p := portmap.Pod{Owner: fmt.Sprintf("cniblocks/net/c%d/eth0", i), Device: fmt.Sprint("h", i),
		Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.1.0.%d/24", 2+i)), netip.MustParsePrefix(fmt.Sprintf("fd00:1::%d/64", 2+i))}}
	for _, proto := range protos {
		for j, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			p.Maps = append(p.Maps, portmap.Map{Proto: proto, Host: netip.AddrPortFrom(any, port), Pod: netip.AddrPortFrom(p.Addrs[j].Addr(), 80)})
		}
	}
	return p
}

// on has the maps on a single address.
func on(p portmap.Pod, addr string) portmap.Pod {
	a := netip.MustParseAddr(addr)
	var maps []portmap.Map
	for _, m := range p.Maps {
		if m.Host.Addr().Is4() == a.Is4() {
			m.Host = netip.AddrPortFrom(a, m.Host.Port())
			maps = append(maps, m)
		}
	}
	p.Maps = maps
	return p
}

// answer tells whoever asks at port 80, by TCP or UDP of either family, its name and the address that it sees.
func answer(t *testing.T, ns *netns.NS, name string) {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		at := netip.AddrPortFrom(any, 80)
		if any.Is6() { // beside IPv4's
			at = netip.AddrPortFrom(podAddr(t, ns), 80)
		}
		l := nstest.Listen(t, ns, at)
		u := listenUDP(t, ns, at)
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, name, " ", c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				c.Close()
			}
		})
		wg.Go(func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(fmt.Sprint(name, " ", from.(*net.UDPAddr).AddrPort().Addr().Unmap())), from)
			}
		})
		t.Cleanup(func() {
			l.Close()
			u.Close()
		})
	}
}

// podAddr is the IPv6 address of eth0.
func podAddr(t *testing.T, ns *netns.NS) (a netip.Addr) {
	t.Helper()
	var found string
	_, err := fmt.Sscanf(nstest.Run(t, ns, "sh", "-c", "ip -6 -o addr show dev eth0 scope global | sed 's/.*inet6 //'"), "%s", &found)
	require.NoError(t, err)
	return netip.MustParsePrefix(found).Addr()
}

func udpSocket(t *testing.T, ns *netns.NS, at netip.AddrPort, connect bool) net.PacketConn {
	t.Helper()
	domain, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port()), Addr: [4]byte(at.Addr().AsSlice())})
	if at.Addr().Is6() {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := ns.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	if connect {
		require.NoError(t, unix.Connect(fd, to))
	} else {
		require.NoError(t, unix.Bind(fd, to))
	}
	c, err := net.FilePacketConn(f)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func listenUDP(t *testing.T, ns *netns.NS, at netip.AddrPort) net.PacketConn {
	t.Helper()
	return udpSocket(t, ns, at, false)
}

// ask asks over a socket of UDP until an answer comes; empty if none does, or if it is refused.
func ask(t *testing.T, c net.PacketConn, patience time.Duration) string {
	t.Helper()
	b := make([]byte, 100)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := c.(*net.UDPConn).Write([]byte("?")); err != nil {
			continue
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
		if n, _, err := c.ReadFrom(b); err == nil {
			return string(b[:n])
		}
	}
	return ""
}

const (
	soon = 20 * time.Second // for what must come
	wait = time.Second      // for what must not
)

// call asks a host port and returns who answers, and as whom it sees the caller.
func call(t *testing.T, from *netns.NS, proto portmap.Proto, to string, patience time.Duration) (string, error) {
	t.Helper()
	at := netip.MustParseAddrPort(to)
	if proto == portmap.UDP {
		if s := ask(t, udpSocket(t, from, at, true), patience); s != "" {
			return s, nil
		}
		return "", context.DeadlineExceeded
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := nstest.Dial(ctx, from, at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}
