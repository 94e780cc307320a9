package overlay_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// move gives peers other ranges: 10.244.N.0/24 and fd00:10:244:N::/64.
func (w *world) move(ranges map[string]string) {
	w.t.Helper()
	path := filepath.Join(w.dir, "peers.json")
	b, err := os.ReadFile(path)
	require.NoError(w.t, err)
	var doc struct {
		Network []string         `json:"network"`
		Peers   []map[string]any `json:"peers"`
	}
	require.NoError(w.t, json.Unmarshal(b, &doc))
	for _, p := range doc.Peers {
		if n, ok := ranges[p["name"].(string)]; ok {
			p["pods"] = []string{"10.244." + n + ".0/24", "fd00:10:244:" + n + "::/64"}
		}
	}
	b, err = json.Marshal(doc)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(path+".new", b, 0o600))
	require.NoError(w.t, os.Rename(path+".new", path))
}

func TestAFormerGatewayGoesWithTheLastPodWhenThePeersFileGivesTheNodeAnotherRange(t *testing.T) {
	t.Parallel()
	for name, plugin := range map[string]map[string]any{"vxlan": nil, "host-gw": {"type": "host-gw", "encap": nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.peers("a", "b")
			a, b := w.machines[0], w.machines[1]
			old := a.pod("old")
			old.add(a.conf(plugin))
			b.pod("first").add(b.conf(plugin))

			w.move(map[string]string{"a": "7", "b": "1"})
			young := a.pod("young")
			status, out, said := young.call(cni.ADD, a.conf(plugin))
			require.Zero(t, status, "%s %s", out, said)
			young.prev = out
			require.Contains(t, said, "the route to 10.244.1.0/24 cannot be set: cni0 still has the gateway 10.244.1.1/24, of a range that was this node's")
			require.NotContains(t, said, "foreign")
			reach(t, old.ns, netip.MustParseAddr("192.0.2.99"))
			require.Contains(t, nstest.Dump(a.ns), "address cni0 10.244.1.1/24", "the old pod uses it")
			old.must(cni.DEL, a.conf(plugin))
			dump := nstest.Dump(a.ns)
			require.NotContains(t, dump, "address cni0 10.244.1.1/24")
			require.NotContains(t, dump, "address cni0 fd00:10:244:1::1/64")

			heir := b.pod("heir").add(b.conf(plugin))
			a.pod("next").add(a.conf(plugin))
			for _, ip := range heir.IPs {
				require.Contains(t, []string{"10.244.1.0/24", "fd00:10:244:1::/64"}, ip.Address.Masked().String())
				reach(t, young.ns, ip.Address.Addr())
				reach(t, a.ns, ip.Address.Addr())
			}
			young.check(a.conf(plugin))
		})
	}
}

func TestAFormerGatewayOfAPodThatWentUnseenGoesWithGCAndWithTheNextADD(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(*machine){
		"GC": func(m *machine) {
			m.pod("gc").must(cni.GC, with(m.conf(nil), "cni.dev/valid-attachments", []cni.Attachment{}))
		},
		"ADD": func(m *machine) { m.pod("next").add(m.conf(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.peers("a", "b")
			a := w.machines[0]
			p := a.pod("p")
			p.add(a.conf(nil))
			p.must(cni.DEL, a.conf(nil))
			require.Contains(t, nstest.Dump(a.ns), "address cni0 10.244.1.1/24", "it is configured")
			w.move(map[string]string{"a": "7"})
			next(a)
			require.NotContains(t, nstest.Dump(a.ns), "10.244.1.1/24")
			require.NotContains(t, nstest.Dump(a.ns), "fd00:10:244:1::1/64")
		})
	}
}
