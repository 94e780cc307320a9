//go:build linux

package runtimes_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/internal/image"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

func TestMain(m *testing.M) {
	node.Init()
	nstest.Main(m, binaries.Remove)
}

// ours is a plugin directory with our plugins alone.
func ours(t testing.TB) string {
	t.Helper()
	node.NeedRealRoot(t)
	dir, err := binaries.Build()
	require.NoError(t, err)
	return dir
}

// with is a plugin directory with ours and, in the place of ours if there are any, the named ones of the reference's.
func with(t testing.TB, names ...string) string {
	t.Helper()
	links, err := filepath.Glob(ours(t) + "/*")
	require.NoError(t, err)
	ref, err := reference.Build(names...)
	require.NoError(t, err)
	dir := t.TempDir()
	for _, to := range links {
		if name := filepath.Base(to); !slices.Contains(names, name) {
			require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
		}
	}
	for _, name := range names {
		require.NoError(t, os.Symlink(filepath.Join(ref, name), filepath.Join(dir, name)))
	}
	return dir
}

// needPrograms skips the test where a program is missing; packages are those of Debian and Ubuntu that have them.
func needPrograms(t testing.TB, packages string, programs ...string) {
	t.Helper()
	node.NeedRealRoot(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("lane: %v; apt-get install %s", err, packages)
		}
	}
}

// imageName is that of the one image.
const imageName = "cniblocks.test/busybox:1"

// imageFile is an archive with the image.
func imageFile(t testing.TB) string {
	t.Helper()
	busybox, err := image.Busybox()
	if err != nil {
		t.Skipf("lane: %v; apt-get install busybox-static", err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, image.Write(file, imageName, busybox))
	return file
}

const (
	node4, outside4 = "192.0.2.2", "192.0.2.1"
	node6, outside6 = "2001:db8::2", "2001:db8::1"
)

// withOutside gives the node an uplink to a host that has no route back to the pods.
func withOutside(t testing.TB, n *node.Node) (outside *netns.NS) {
	t.Helper()
	outside = nstest.New(t)
	nstest.Link(t, nstest.End{NS: n.Net, Name: "uplink", Addrs: []string{node4 + "/24", node6 + "/64"}},
		nstest.End{NS: outside, Name: "eth0", Addrs: []string{outside4 + "/24", outside6 + "/64"}})
	nstest.AddRoute(t, n.Net, "default", outside4)
	nstest.AddRoute(t, n.Net, "default", outside6)
	return outside
}

type object = map[string]any

// conflist is a configuration as we ship it, of the named network, with plugins after the bridge.
func conflist(name string, chained ...object) string {
	return conflistOf(object{"cniVersion": "1.0.0", "cniVersions": []string{"1.0.0", "1.1.0"}, "name": name}, chained...)
}

func conflistOf(list object, chained ...object) string {
	list["plugins"] = append([]object{{
		"type": "bridge", "bridge": "pods0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
		"ipam": object{"type": "host-local", "ranges": [][]object{{{"subnet": "10.1.2.0/24"}}, {{"subnet": "fd00:1:2::/64"}}}},
	}}, chained...)
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings only
	}
	return string(b)
}

func reach(t testing.TB, from *netns.NS, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, nstest.Ping(ctx, from, to, ping.Options{}))
}

// pings is a command for a container, which fails when one of the addresses does not answer.
func pings(to []netip.Addr) []string {
	command := []string{"sh", "-c", `for ip; do ping -c 1 -W 5 "$ip" || exit; done`, "pings"}
	for _, a := range to {
		command = append(command, a.String())
	}
	return command
}

// lines are those of a text without the empty ones.
func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}
