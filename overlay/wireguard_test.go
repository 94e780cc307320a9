//go:build linux

package overlay_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

func TestTheKeyIsMadeOnceBelongsToRootAloneAndIsTheSameForAll(t *testing.T) {
	t.Parallel()
	w := overlay.WireGuard{KeyDir: t.TempDir()}
	keys := make([]peer.PublicKey, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i], _ = w.PublicKey("pods") })
	}
	wg.Wait()
	for _, k := range keys {
		require.NotZero(t, k)
		require.Equal(t, keys[0], k)
	}
	file := filepath.Join(w.KeyDir, "pods", "wireguard.key")
	st, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode())
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, entries, 1, "temporary files are left")
	other, err := w.PublicKey("lab")
	require.NoError(t, err)
	require.NotEqual(t, keys[0], other)

	require.NoError(t, os.Chmod(file, 0o644))
	_, err = w.PublicKey("pods")
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, os.WriteFile(file, []byte("torn"), 0o600))
	_, err = w.PublicKey("pods")
	require.ErrorContains(t, err, "is no WireGuard key")
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Symlink("/etc/hostname", file))
	_, err = w.PublicKey("pods")
	require.Error(t, err, "a link was followed")
	_, err = w.PublicKey("../etc")
	require.ErrorContains(t, err, `"../etc"`)
}

func TestThePublicKeyIsWhatTheWireGuardProgramsMakeOfThePrivateOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "pods"), 0o700))
	// RFC 7748, section 6.1: Alice's keys.
	private := "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pods", "wireguard.key"), []byte(private+"\n"), 0o600))
	k, err := overlay.WireGuard{KeyDir: dir}.PublicKey("pods")
	require.NoError(t, err)
	require.Equal(t, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", k.String())
}

func TestOfTwoPeersThatClaimARangeTheOlderStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e overlay.Encap) {
		c := newCluster(t, 4)
		c.keys(e)
		n, young := c.nodes[0], c.nodes[3]
		n.open(t, e)
		require.NoError(t, n.net.Set(t.Context(), c.peers()[:3]))
		before := ours(c.dumps())
		young.Pods = []netip.Prefix{netip.MustParsePrefix("10.244.2.128/25")}
		list := []peer.Peer{young.Peer, c.nodes[2].Peer, c.nodes[1].Peer, n.Peer}
		check := func() {
			t.Helper()
			err := n.net.Set(t.Context(), list)
			require.ErrorContains(t, err, `peer "d": its range 10.244.2.128/25 overlaps 10.244.2.0/24 of peer "b", which was there before`)
			require.Len(t, overlay.OnlyRefused(err), 1)
			same(t, before, ours(c.dumps()), "the older peer suffered")
		}
		check()
		check()
		n.open(t, e) // a new process learns from the kernel who was there
		check()
		require.NoError(t, n.net.Set(t.Context(), []peer.Peer{young.Peer, c.nodes[2].Peer}), "the older one is gone")
		require.Contains(t, routes(t, n.ns), "10.244.2.128/25")
	})
}

func TestAllowedIPsFollowARangeThatMoves(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.WireGuard)
	c := newCluster(t, 3)
	e := overlay.WireGuard{Keepalive: 25 * time.Second}
	c.keys(e)
	c.up(e)
	n, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
	before := n.wg(t)
	require.Equal(t, map[string]string{b.V4.PublicKey.String(): "10.244.2.0/24 fd00:10:244:2::/64", d.V4.PublicKey.String(): "10.244.3.0/24 fd00:10:244:3::/64"}, before)
	b.Pods, d.Pods = d.Pods, b.Pods
	for _, again := range []bool{false, true} {
		if again {
			b.Pods, d.Pods = d.Pods, b.Pods
			n.open(t, e)
		}
		require.NoError(t, n.net.Set(t.Context(), c.peers()))
		require.NoError(t, n.net.Check(t.Context()))
		require.Equal(t, map[bool]map[string]string{
			false: {b.V4.PublicKey.String(): "10.244.3.0/24 fd00:10:244:3::/64", d.V4.PublicKey.String(): "10.244.2.0/24 fd00:10:244:2::/64"},
			true:  before,
		}[again], n.wg(t))
	}
	// One takes over what the other leaves behind.
	d.Pods = append(d.Pods, b.Pods...)
	require.NoError(t, n.net.Set(t.Context(), []peer.Peer{d.Peer}))
	require.Equal(t, map[string]string{d.V4.PublicKey.String(): "10.244.2.0/24 10.244.3.0/24 fd00:10:244:2::/64 fd00:10:244:3::/64"}, n.wg(t))
}

func TestWireGuardNamesWhatAPeerLacks(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.WireGuard)
	c := newCluster(t, 4)
	c.keys(overlay.WireGuard{})
	n := c.nodes[0]
	n.open(t, overlay.WireGuard{})
	c.nodes[1].V4.PublicKey, c.nodes[1].V6.PublicKey = peer.PublicKey{}, peer.PublicKey{}
	c.nodes[2].V4.PublicKey = n.V4.PublicKey
	calls := c.nodes[3]
	calls.V4.Addr, calls.V6.Addr = netip.Addr{}, netip.Addr{}
	err := n.net.Set(t.Context(), c.peers())
	require.Len(t, overlay.OnlyRefused(err), 2, "%v", err)
	require.ErrorContains(t, err, `peer "b": it has no public key: run "cniblocks wireguard pubkey pods"`)
	require.ErrorContains(t, err, `peer "c": its public key `+n.V4.PublicKey.String()+" is this node's own")
	require.Equal(t, map[string]string{calls.V4.PublicKey.String(): "10.244.4.0/24 fd00:10:244:4::/64"}, n.wg(t), "one without an endpoint may call")
	require.NotContains(t, err.Error(), "private")
}

// wg are the allowed IPs by public key, sorted.
func (n *node) wg(t testing.TB) map[string]string {
	t.Helper()
	self, err := n.net.Ensure(t.Context())
	if overlay.OnlyRefused(err) == nil {
		require.NoError(t, err)
	}
	all := map[string]string{}
	for _, p := range wgDevice(t, n.ns, self.Devices[0]).Peers {
		var ranges []string
		for _, r := range p.AllowedIPs {
			ranges = append(ranges, r.String())
		}
		all[p.PublicKey.String()] = strings.Join(sorted(ranges), " ")
	}
	return all
}
