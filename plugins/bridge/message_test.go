package bridge_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	libbridge "github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestWhatIsWrongIsNamedWithItsKeyAndRemedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keys map[string]any
		name string
		code cni.Code
		says []string
		make func(w *world)
	}{
		"a list of ranges":            {keys: map[string]any{"ipam": map[string]any{"type": "host-local", "ranges": []any{map[string]any{"subnet": "10.9.0.0/24"}}}}, code: cni.ErrConfig, says: []string{`"ipam.ranges"`, "a list of lists"}},
		"the bridge's letters":        {keys: map[string]any{"bridge": "br 0"}, code: cni.ErrConfig, says: []string{`key "bridge" is "br 0"`, "white space"}},
		"a bridge called all":         {keys: map[string]any{"bridge": "all"}, code: cni.ErrConfig, says: []string{`key "bridge" is "all"`, "another name"}},
		"an interface called default": {name: "default", code: cni.ErrEnvironment, says: []string{"CNI_IFNAME=default", "another one"}},
		"an IPAM plugin without x": {keys: map[string]any{"ipam": map[string]any{"type": "static"}}, code: cni.ErrNotAvailable, says: []string{"bin/static is not a program that may be executed", "chmod +x"},
			make: func(w *world) {
				require.NoError(w.t, os.Mkdir(filepath.Join(w.dir, "bin"), 0o755))
				require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, "bin", "static"), []byte("#!/bin/sh\n"), 0o644))
			}},
		"IPv6 switched off": {code: cni.ErrConfig, says: []string{"IPv6 is switched off on br0", "net/ipv6/conf/default/disable_ipv6"},
			make: func(w *world) { nstest.Sysctl(w.t, w.node, "net/ipv6/conf/default/disable_ipv6", "1") }},
		"IPv6 switched off on the bridge": {code: cni.ErrConfig, says: []string{"IPv6 is switched off on br0", "net/ipv6/conf/br0/disable_ipv6"},
			make: func(w *world) {
				_, err := libbridge.Ensure(w.t.Context(), w.node, libbridge.Bridge{Name: "br0"})
				require.NoError(w.t, err)
				nstest.Sysctl(w.t, w.node, "net/ipv6/conf/br0/disable_ipv6", "1")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.make != nil {
				c.make(w)
			}
			a := w.pod("a")
			if c.name != "" {
				a.name = c.name
			}
			ans := a.call(cni.ADD, w.conf(c.keys))
			require.Equal(t, c.code, ans.code(), "%s", ans.out)
			for _, says := range c.says {
				require.Contains(t, ans.msg(), says)
			}
			require.Empty(t, w.leases())
			require.NotContains(t, w.dump(), "cniblocks/testnet/")
		})
	}
}

func TestVLANsAreRefusedWithTheKeyWhereTheKernelDoesNotFilterThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if nstest.Has(nstest.VLANFiltering) {
		w.pod("a").add(w.conf(map[string]any{"vlan": 7, "isGateway": false, "isDefaultGateway": false}))
		return
	}
	for key, value := range map[string]any{"vlan": 7, "vlanTrunk": []map[string]int{{"id": 7}}} {
		ans := w.pod("a").call(cni.ADD, w.conf(map[string]any{key: value}))
		require.Equal(t, cni.ErrConfig, ans.code(), "%s", ans.out)
		require.Contains(t, ans.msg(), `key "`+key+`"`)
		require.Contains(t, ans.msg(), "no VLAN filtering")
		require.Empty(t, w.leases())
	}
}

func TestADefaultRouteThatIsStatedTwiceIsTakenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(map[string]any{"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "ranges": [][]map[string]any{{{"subnet": "10.1.2.0/24"}}, {{"subnet": "fd00:1:2::/64"}}},
		"routes": []map[string]any{{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0"}, {"dst": "::/0"}}}})
	a := w.pod("a")
	a.add(conf)
	require.Zero(t, a.check(conf).status, "%s", a.check(conf).out)
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
}

func TestOnlyTheFirstStepThatFailedIsACause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.delegates["odd"] = fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.1.2.9/24"), Interface: cni.NoInterface}}, Routes: []cni.Route{
			{Dst: netip.MustParsePrefix("198.51.100.0/24"), Table: 1 << 20, Scope: 255}, {Dst: netip.MustParsePrefix("198.51.101.0/24"), Scope: 255}}}, nil
	}}
	ans := w.pod("a").call(cni.ADD, w.conf(map[string]any{"ipam": map[string]any{"type": "odd"}}))
	require.Equal(t, 1, ans.status, "%s", ans.out)
	require.Contains(t, ans.msg(), "198.51.100.0/24")
	require.Contains(t, ans.msg(), "dev eth0")
	require.NotContains(t, ans.msg(), "198.51.101.0/24")
}
