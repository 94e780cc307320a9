//go:build linux

package wg

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// key is the n-th one.
func key(n int) (k Key) {
	binary.BigEndian.PutUint32(k[4:], uint32(n))
	k[0], k[31] = 8, 64
	return k
}

// ranges are n allowed IPs, from the first of both families on, in turns.
func ranges(first, n int) (all []netip.Prefix) {
	for i := first; i < first+n; i++ {
		var b [16]byte
		b[0] = 0xfd
		binary.BigEndian.PutUint32(b[8:], uint32(i))
		if i%2 == 0 {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		} else {
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(b), 128))
		}
	}
	return all
}

// many are peers by the thousand, and one with more allowed IPs than a message holds, and one without any.
func many() (all []Peer) {
	for i := range 3000 {
		p := Peer{PublicKey: key(i + 1), Keepalive: uint16(i % 3), AllowedIPs: ranges(2*i, 2)}
		switch i % 3 {
		case 0:
			p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 51820)
		case 1:
			p.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(i+1))
		}
		all = append(all, p)
	}
	return append(all, Peer{PublicKey: key(9000), AllowedIPs: ranges(10000, 5000)}, Peer{PublicKey: key(9001)})
}

func changes(peers []Peer) (all []Change) {
	for _, p := range peers {
		all = append(all, Change{Peer: p})
	}
	return all
}

// same compares devices whose peers and allowed IPs have any order.
func same(t *testing.T, want, have Device) {
	t.Helper()
	order := func(d Device) Device {
		peers := slices.Clone(d.Peers)
		slices.SortFunc(peers, func(a, b Peer) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
		for i := range peers {
			peers[i].AllowedIPs = slices.SortedFunc(slices.Values(peers[i].AllowedIPs), netip.Prefix.Compare)
		}
		d.Peers = peers
		return d
	}
	want, have = order(want), order(have)
	require.Len(t, have.Peers, len(want.Peers))
	for i := range want.Peers {
		require.Equal(t, want.Peers[i], have.Peers[i])
	}
	require.Equal(t, want, have)
}

// device makes one.
func device(t *testing.T) *netns.NS {
	t.Helper()
	nstest.Need(t, nstest.WireGuard)
	ns := nstest.New(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wg0"
	require.NoError(t, nstest.Netlink(t, ns).LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}))
	return ns
}

// second calls f with the other library's client.
func second(t *testing.T, ns *netns.NS, f func(*wgctrl.Client) error) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(c)
	}))
}

// opinion is what the other library reads.
func opinion(t *testing.T, ns *netns.NS) (d Device) {
	t.Helper()
	second(t, ns, func(c *wgctrl.Client) error {
		got, err := c.Device("wg0")
		if err != nil {
			return err
		}
		d = Device{PrivateKey: Key(got.PrivateKey), Port: uint16(got.ListenPort)}
		for _, p := range got.Peers {
			q := Peer{PublicKey: Key(p.PublicKey), Keepalive: uint16(p.PersistentKeepaliveInterval / time.Second)}
			if p.Endpoint != nil {
				at := p.Endpoint.AddrPort()
				q.Endpoint = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
			}
			for _, r := range p.AllowedIPs {
				a, _ := netip.AddrFromSlice(r.IP)
				bits, _ := r.Mask.Size()
				q.AllowedIPs = append(q.AllowedIPs, netip.PrefixFrom(a.Unmap(), bits))
			}
			d.Peers = append(d.Peers, q)
		}
		return nil
	})
	return d
}

func TestWhatIsSetAnotherLibraryReads(t *testing.T) {
	t.Parallel()
	ns := device(t)
	private, port := key(7), uint16(51821)
	want := Device{PrivateKey: private, Port: port, Peers: many()}
	require.NoError(t, Set(t.Context(), ns, "wg0", Config{PrivateKey: &private, Port: &port, Peers: changes(want.Peers)}))
	same(t, want, opinion(t, ns))
	got, err := Read(t.Context(), ns, "wg0")
	require.NoError(t, err)
	same(t, want, got)

	// Then a bit of everything: more ranges, others, fewer than a message holds, no peer any more.
	want.Peers[0].AllowedIPs = append(want.Peers[0].AllowedIPs, ranges(20000, 1)...)
	want.Peers[1].AllowedIPs = ranges(21000, 3000)
	want.Peers[2].AllowedIPs, want.Peers[2].Keepalive = nil, 9
	want.Peers[3000].AllowedIPs = ranges(10000, 4000)
	gone := want.Peers[100:1100]
	list := []Change{{Peer: Peer{PublicKey: key(1), Keepalive: want.Peers[0].Keepalive, AllowedIPs: ranges(20000, 1)}}}
	for _, i := range []int{1, 2, 3000} {
		list = append(list, Change{Peer: want.Peers[i], Replace: true})
	}
	for _, p := range gone {
		list = append(list, Change{Peer: p, Remove: true})
	}
	list = append(list, Change{Peer: Peer{PublicKey: key(8000)}, Remove: true}) // never there
	require.NoError(t, Set(t.Context(), ns, "wg0", Config{Peers: list}))
	want.Peers = slices.Delete(want.Peers, 100, 1100)
	same(t, want, opinion(t, ns))
}

func TestWhatAnotherLibrarySetsIsRead(t *testing.T) {
	t.Parallel()
	ns := device(t)
	private, port := wgtypes.Key(key(7)), 51822
	want := Device{PrivateKey: key(7), Port: 51822, Peers: many()}
	cfg := wgtypes.Config{PrivateKey: &private, ListenPort: &port}
	for _, p := range want.Peers {
		keepalive := time.Duration(p.Keepalive) * time.Second
		q := wgtypes.PeerConfig{PublicKey: p.PublicKey, PersistentKeepaliveInterval: &keepalive}
		if p.Endpoint.IsValid() {
			q.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
		}
		for _, r := range p.AllowedIPs {
			q.AllowedIPs = append(q.AllowedIPs, net.IPNet{IP: r.Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())})
		}
		cfg.Peers = append(cfg.Peers, q)
	}
	second(t, ns, func(c *wgctrl.Client) error { return c.ConfigureDevice("wg0", cfg) })
	got, err := Read(t.Context(), ns, "wg0")
	require.NoError(t, err)
	same(t, want, got)
}

func TestAnAllowedIPBelongsToWhoeverGotItLast(t *testing.T) {
	t.Parallel()
	ns := device(t)
	r := ranges(0, 2000)
	require.NoError(t, Set(t.Context(), ns, "wg0", Config{Peers: changes([]Peer{{PublicKey: key(1), AllowedIPs: r}, {PublicKey: key(2), AllowedIPs: r[:1000]}})}))
	same(t, Device{Peers: []Peer{{PublicKey: key(1), AllowedIPs: r[1000:]}, {PublicKey: key(2), AllowedIPs: r[:1000]}}}, opinion(t, ns))
}

func TestADeviceThatIsNotThereOrNotOursIsAnError(t *testing.T) {
	t.Parallel()
	ns := device(t)
	_, err := Read(t.Context(), ns, "wg1")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "read WireGuard device wg1")
	port := uint16(1)
	require.ErrorIs(t, Set(t.Context(), ns, "wg1", Config{Port: &port}), fs.ErrNotExist)
	_, err = Read(t.Context(), ns, "lo")
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
}

func TestAFamilyIsFoundOrIsErrNotExist(t *testing.T) {
	t.Parallel()
	c, err := open(nstest.New(t))
	require.NoError(t, err)
	defer c.close()
	id, err := c.find(t.Context(), "nlctrl")
	require.NoError(t, err)
	require.EqualValues(t, unix.GENL_ID_CTRL, id)
	_, err = c.find(t.Context(), "cniblocks-none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "find the netlink family cniblocks-none")
	id, err = c.find(t.Context(), "nlctrl")
	require.NoError(t, err, "after a refusal")
	require.EqualValues(t, unix.GENL_ID_CTRL, id)
}

func TestACallEndsWithItsContextAndLeavesNobodyWaiting(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Read(ended, ns, "wg0")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, Set(ended, ns, "wg0", Config{}), context.Canceled)

	c, err := open(ns)
	require.NoError(t, err)
	defer c.close()
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = c.receive(soon, func(uint16, uint16, []byte) (bool, error) { return true, nil }) // nothing was asked
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the kernel has not answered")
	_, err = c.find(t.Context(), "nlctrl")
	require.NoError(t, err, "the socket serves on")
}

// sent are the messages of a change.
func sent(t *testing.T, cfg Config) (all [][]byte) {
	t.Helper()
	require.NoError(t, messages("wg0", cfg, func(b []byte) error {
		all = append(all, slices.Clone(b))
		return nil
	}))
	return all
}

func TestManyPeersGoInMessagesThatAnAttributeCanHold(t *testing.T) {
	t.Parallel()
	private, port := key(7), uint16(51820)
	want := Device{PrivateKey: private, Port: port, Peers: many()}
	var got Device
	list := sent(t, Config{PrivateKey: &private, Port: &port, Peers: changes(want.Peers)})
	require.Greater(t, len(list), 10)
	for i, b := range list {
		require.Less(t, len(b), batch+1<<10)
		var one Device
		require.NoError(t, one.merge(b))
		require.Equal(t, i == 0, one.PrivateKey == private, "the key goes once")
		require.NoError(t, got.merge(b))
	}
	require.Equal(t, want, got)
	require.Empty(t, sent(t, Config{}), "nothing to be done")
}

func TestThePeerThatIsSplitIsReplacedOnce(t *testing.T) {
	t.Parallel()
	list := sent(t, Config{Peers: []Change{{Peer: Peer{PublicKey: key(1), AllowedIPs: ranges(0, 5000)}, Replace: true}}})
	require.Greater(t, len(list), 3)
	for i, b := range list {
		flags, other := uint32(0), 0
		require.NoError(t, each(b, func(typ uint16, v []byte) error {
			if typ != devicePeers {
				return nil
			}
			return each(v, func(_ uint16, v []byte) error {
				return each(v, func(typ uint16, v []byte) error {
					switch typ {
					case peerFlags:
						flags = native.Uint32(v)
					case peerKeepalive, peerEndpoint:
						other++
					}
					return nil
				})
			})
		}))
		require.Equal(t, map[bool]uint32{true: flagReplace}[i == 0], flags, fmt.Sprint("message ", i))
		require.Equal(t, i == 0, other > 0)
	}
}

func TestAMalformedAnswerIsAnError(t *testing.T) {
	t.Parallel()
	peerOf := func(attrs ...[]byte) []byte {
		return appendAttr(nil, devicePeers, appendAttr(nil, 0, slices.Concat(attrs...)))
	}
	k := appendAttr(nil, peerKey, make([]byte, 32))
	allowedOf := func(attrs ...[]byte) []byte {
		return appendAttr(nil, peerAllowedIPs, appendAttr(nil, 0, slices.Concat(attrs...)))
	}
	for name, b := range map[string][]byte{
		"a short attribute":  {1, 2, 3},
		"a size of nothing":  {0, 0, 0, 0},
		"a size too large":   {9, 0, 3, 0},
		"a short key":        appendAttr(nil, devicePrivateKey, make([]byte, 31)),
		"a long key":         peerOf(appendAttr(nil, peerKey, make([]byte, 33))),
		"a short port":       appendAttr(nil, devicePort, []byte{1}),
		"no key":             peerOf(appendAttr(nil, peerKeepalive, []byte{1, 0})),
		"a short endpoint":   peerOf(k, appendAttr(nil, peerEndpoint, []byte{unix.AF_INET, 0, 1, 1, 1, 1, 1, 1})),
		"an endpoint of one": peerOf(k, appendAttr(nil, peerEndpoint, []byte{1})),
		"another family":     peerOf(k, appendAttr(nil, peerEndpoint, make([]byte, 28))),
		"no bits":            peerOf(k, allowedOf(appendAttr(nil, allowedIP, make([]byte, 4)))),
		"too many bits":      peerOf(k, allowedOf(appendAttr(nil, allowedIP, make([]byte, 4)), appendAttr(nil, allowedBits, []byte{33}))),
		"bits of two bytes":  peerOf(k, allowedOf(appendAttr(nil, allowedIP, make([]byte, 4)), appendAttr(nil, allowedBits, []byte{3, 0}))),
		"a short address":    peerOf(k, allowedOf(appendAttr(nil, allowedIP, make([]byte, 5)), appendAttr(nil, allowedBits, []byte{3}))),
	} {
		require.ErrorIs(t, new(Device).merge(b), errMalformed, name)
	}
	require.NoError(t, new(Device).merge(append(peerOf(k), appendAttr(nil, 99, []byte("of a later kernel"))...)))
}

func FuzzMerge(f *testing.F) {
	private, port := key(7), uint16(51820)
	p := many()
	for _, cfg := range []Config{{}, {PrivateKey: &private, Port: &port}, {Peers: changes(p[:3])}, {Peers: changes(p[3000:])}} {
		_ = messages("wg0", cfg, func(b []byte) error {
			f.Add(slices.Clone(b[:min(len(b), 512)]))
			f.Add(slices.Clone(b))
			return nil
		})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Device
		if d.merge(b) != nil {
			return
		}
		// What is read and set again is read the same.
		var again Device
		require.NoError(t, messages("wg0", Config{PrivateKey: &d.PrivateKey, Port: &d.Port, Peers: changes(d.Peers)}, again.merge))
		require.Equal(t, d, again)
	})
}
