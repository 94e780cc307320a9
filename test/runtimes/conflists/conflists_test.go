//go:build linux

// Package conflists_test runs the conflists of examples/conflists as they stand. It is a package of its own since one of
// them needs the virtual machine.
package conflists_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/test/internal/node"
	"github.com/cniblocks/cniblocks/test/runtimes/internal/library"
)

// The test program is the plugins, too, by the names that plugins links to it: a virtual machine would be slow at
// building them.
func TestMain(m *testing.M) {
	node.Init()
	linked := cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}}
	if p, ok := linked[filepath.Base(os.Args[0])]; ok {
		cni.Main(p, linked)
	}
	// A program with the race detector else waits a second at its end, for reports of others.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	nstest.Main(m)
}

// plugins is a directory with ours and, of the reference's, the named ones.
func plugins(t *testing.T, theirs ...string) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	for _, name := range []string{"bridge", "host-local"} {
		require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	if len(theirs) > 0 {
		ref, err := reference.Build(theirs...)
		require.NoError(t, err)
		for _, name := range theirs {
			require.NoError(t, os.Symlink(filepath.Join(ref, name), filepath.Join(dir, name)))
		}
	}
	return dir
}

func TestConflistsThatWeShipWorkAsTheyStand(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		needs  []nstest.Feature
		theirs []string
		caps   map[string]any
		ips    int
	}{
		"bridge.conflist":     {ips: 1},
		"dual-stack.conflist": {ips: 2},
		"l2.conflist":         {},
		"vlan.conflist":       {ips: 2, needs: []nstest.Feature{nstest.VLANFiltering, nstest.VLAN}},
		"portmap.conflist": {ips: 2, theirs: []string{"portmap"}, needs: []nstest.Feature{nstest.IPTables, nstest.IP6Tables},
			caps: map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}},
	}
	files, err := filepath.Glob("../../../examples/conflists/*.conflist")
	require.NoError(t, err)
	require.Len(t, files, len(cases))
	for _, file := range files {
		c, known := cases[filepath.Base(file)]
		require.True(t, known, file)
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			if os.Getenv("CNIBLOCKS_VM") != "" && !slices.Contains(c.needs, nstest.VLANFiltering) {
				t.Skip("lane: runs on the machine's kernel, which is faster")
			}
			node.NeedRealRoot(t)
			nstest.Need(t, c.needs...)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			r := library.New(t, plugins(t, c.theirs...), string(text))
			require.Equal(t, "1.1.0", r.List.CNIVersion)
			outside := nstest.New(t)
			uplink(t, r.Net, outside)
			a := r.Pod("a")
			r.Caps = c.caps
			b := r.Pod("b")
			clean := r.Settled()

			a.Add()
			b.Add()
			require.Len(t, a.IPs, c.ips)
			require.NoError(t, a.Check())
			require.NoError(t, b.Check())
			if c.theirs == nil { // the reference's plugins do not know STATUS
				require.NoError(t, r.Status())
			}
			if c.ips == 0 {
				nstest.AddAddrs(t, a.NS, "eth0", "203.0.113.1/24")
				nstest.AddAddrs(t, b.NS, "eth0", "203.0.113.2/24")
				reach(t, a.NS, netip.MustParseAddr("203.0.113.2"))
			}
			for i := range a.IPs {
				reach(t, a.NS, b.IPs[i])
				reach(t, a.NS, outsides[i])
				if c.caps != nil {
					nstest.Serve(t, b.NS, netip.AddrPortFrom(b.IPs[i], 80))
					require.NoError(t, nstest.Stream(t.Context(), outside, netip.AddrPortFrom(nodes[i], 8080), 10_000))
				}
			}
			a.Del()
			b.Del()
			require.Equal(t, clean, r.Trace(t))
		})
	}
}

var (
	nodes    = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}
	outsides = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
)

// uplink joins the node to a host that has no route back to the pods.
func uplink(t *testing.T, node, outside *netns.NS) {
	t.Helper()
	nstest.Link(t, nstest.End{NS: node, Name: "uplink", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}},
		nstest.End{NS: outside, Name: "eth0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}})
	for _, ip := range outsides {
		nstest.AddRoute(t, node, "default", ip.String())
	}
}

func reach(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}))
}
