//go:build linux

package bridge_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
)

func TestAFullOrReadOnlyDataDirIsToldOnceByItsKey(t *testing.T) {
	t.Parallel()
	for says, mount := range map[string]struct {
		flags   uintptr
		options string
	}{"read-only": {unix.MS_RDONLY, ""}, "full": {0, "nr_inodes=1"}} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.dir = t.TempDir()
			require.NoError(t, unix.Mount("none", w.dir, "tmpfs", mount.flags, mount.options))
			t.Cleanup(func() { require.NoError(t, unix.Unmount(w.dir, unix.MNT_DETACH)) })
			ans := w.pod("a").call(cni.ADD, w.conf(nil))
			require.NotZero(t, ans.status)
			require.Equal(t, 1, strings.Count(string(ans.out), "ipam.dataDir"), "%s", ans.out)
			require.Contains(t, ans.msg(), says)
		})
	}
}

func TestAnIPAMResultWithInterface0AndNoInterfacesIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.delegates["other"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.9.0.2/24"), Gateway: netip.MustParseAddr("10.9.0.1"), Interface: 0}}}, nil
	}}
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "other"}})
	a := w.pod("a")
	res := a.add(conf)
	require.Len(t, res.IPs, 1)
	require.Equal(t, "eth0", res.Interfaces[res.IPs[0].Interface].Name)
	reach(t, a.pod, outside4)
	require.Zero(t, a.check(conf).status)
	a.del(conf)
}

func TestAnInterfaceCalledAllOrDefaultIsRefusedByADDAndDeletedAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.dump()
	for _, name := range []string{"all", "default"} {
		p := w.pod("a")
		p.name = name
		ans := p.call(cni.ADD, w.conf(nil))
		require.Equal(t, cni.ErrEnvironment, ans.code())
		require.Contains(t, ans.msg(), "CNI_IFNAME="+name)
		p.del(w.conf(nil))
		require.Equal(t, before, w.dump())
	}
}
