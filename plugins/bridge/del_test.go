package bridge_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestDELRemovesEverythingWhateverIsMissing(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(w *world, a *attachment, conf *string){
		"the namespace is not given": func(w *world, a *attachment, conf *string) { a.pod = nil },
		"the namespace is gone":      func(w *world, a *attachment, conf *string) { a.gone = "/run/netns/not-there" },
		"the namespace is a file": func(w *world, a *attachment, conf *string) {
			a.gone = filepath.Join(w.dir, "plain")
			require.NoError(w.t, os.WriteFile(a.gone, nil, 0o600))
		},
		"the interface is gone": func(w *world, a *attachment, conf *string) { delLink(w, a.pod, "eth0") },
		"it was called before":  func(w *world, a *attachment, conf *string) { a.del(*conf) },
		"prevResult is there":   func(w *world, a *attachment, conf *string) { *conf = with(*conf, "prevResult", a.prev) },
		"prevResult is broken": func(w *world, a *attachment, conf *string) {
			*conf = with(*conf, "prevResult", map[string]any{"ips": "x"})
		},
		"the ranges were removed": func(w *world, a *attachment, conf *string) {
			*conf = with(*conf, "ipam", map[string]any{"type": "host-local", "dataDir": w.dir})
		},
		"the ranges became nonsense": func(w *world, a *attachment, conf *string) {
			*conf = with(*conf, "ipam", map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.0.0.0/33"})
		},
		"ipMasq was switched off": func(w *world, a *attachment, conf *string) { *conf = with(*conf, "ipMasq", false) },
		"the bridge is gone":      func(w *world, a *attachment, conf *string) { delLink(w, w.node, "br0") },
		"the lease's index is gone": func(w *world, a *attachment, conf *string) {
			require.NoError(w.t, os.RemoveAll(filepath.Join(w.dir, ".cniblocks")))
		},
		"the lease directory is gone": func(w *world, a *attachment, conf *string) {
			require.NoError(w.t, os.RemoveAll(filepath.Join(w.dir, "testnet")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conf := w.conf(nil)
			clean := w.settled(conf)
			a := w.pod("a")
			a.add(conf)
			now := conf
			broken(w, a, &now)
			a.del(now)
			a.del(now)
			require.Empty(t, w.leases())
			require.NotContains(t, w.dump(), "cniblocks/testnet/a/eth0")
			if name != "the bridge is gone" {
				require.Equal(t, clean, w.dump())
			}
			b := w.pod("a")
			b.add(conf)
			reach(t, b.pod, outside4)
		})
	}
}

func TestTwoInterfacesOfOneContainerShareANetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	second := &attachment{w: w, id: "a", name: "eth1", pod: a.pod}
	res := second.add(w.conf(map[string]any{"isDefaultGateway": false}))
	require.Len(t, w.leases(), 4)
	a.del(conf)
	require.Len(t, w.leases(), 2)
	require.Zero(t, second.check(w.conf(map[string]any{"isDefaultGateway": false})).status)
	reach(t, a.pod, res.IPs[0].Gateway)
	second.del(conf)
	require.Empty(t, w.leases())
}

func TestDELOfAnotherNetworkLeavesTheInterfaceAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	other := w.conf(map[string]any{"name": "other", "bridge": "br1"})
	require.Equal(t, 1, a.call(cni.ADD, other).status, "eth0 is taken")
	require.Zero(t, a.call(cni.DEL, other).status)
	require.Zero(t, a.check(conf).status)
	reach(t, a.pod, outside4)
}

func TestTheDeviceGoesBeforeItsAddressReturnsToThePool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.delegates["host-local"]
	seen := make(chan string, 1)
	w.delegates["host-local"] = spy{host, func() { seen <- nstest.Dump(w.node) }}
	a := w.pod("a")
	a.add(w.conf(nil))
	a.del(w.conf(nil))
	require.NotContains(t, <-seen, "cniblocks/testnet/a/eth0")
}

// spy calls look before the lease goes.
type spy struct {
	cni.Plugin
	look func()
}

func (s spy) Del(ctx context.Context, r *cni.Request) error {
	s.look()
	return s.Plugin.Del(ctx, r)
}

func delLink(w *world, ns *netns.NS, name string) {
	w.t.Helper()
	h := nstest.Netlink(w.t, ns)
	l, err := h.LinkByName(name)
	require.NoError(w.t, err)
	require.NoError(w.t, h.LinkDel(l))
}
