//go:build linux

package etcd_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(acquirer); file != "" {
		acquireUntilKilled(file)
	}
	nstest.Main(m)
}

// world is a network of a test's own on a server.
type world struct {
	t      testing.TB
	s      *etcdtest.Server
	prefix string
}

func newWorld(t testing.TB, s *etcdtest.Server, config string) *world {
	t.Helper()
	w := &world{t: t, s: s, prefix: fmt.Sprintf("/test/%08x", crc32.ChecksumIEEE([]byte(t.Name())))}
	if config != "" {
		s.Ctl(t, "put", w.prefix+"/config", config)
	}
	return w
}

// node is a store of a node of this network.
func (w *world) node(change ...func(*etcd.Options)) *etcd.Store {
	w.t.Helper()
	o := etcd.Options{Endpoints: []string{etcdtest.URL}, Prefix: w.prefix, Dial: w.s.Dial}
	for _, f := range change {
		f(&o)
	}
	s, err := etcd.New(o)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, s.Close()) })
	return s
}

func (w *world) stateFile() string { return filepath.Join(w.t.TempDir(), "etcd.json") }

func withState(path string) func(*etcd.Options) {
	return func(o *etcd.Options) { o.StateFile = path }
}

func withTTL(d time.Duration) func(*etcd.Options) {
	return func(o *etcd.Options) { o.TTL = d }
}

// keys are those of the leases.
func (w *world) keys() []string {
	out := strings.Fields(w.s.Ctl(w.t, "get", "--prefix", "--keys-only", w.prefix+"/subnets/"))
	for i, k := range out {
		out[i] = strings.TrimPrefix(k, w.prefix+"/subnets/")
	}
	return out
}

func (w *world) value(key string) string {
	return strings.TrimSpace(w.s.Ctl(w.t, "get", "--print-value-only", w.prefix+"/subnets/"+key))
}

func (w *world) put(key, value string, args ...string) {
	w.s.Ctl(w.t, append([]string{"put", w.prefix + "/subnets/" + key, value}, args...)...)
}

// want is a node with an address of each family that is stated.
func want(name string, addrs ...string) peer.Peer {
	p := peer.Peer{Name: name}
	for _, s := range addrs {
		if a := netip.MustParseAddr(s); a.Is4() {
			p.V4.Addr = a
		} else {
			p.V6.Addr = a
		}
	}
	return p
}

// vxlan is how a node is reached after its device was made.
func vxlan(p peer.Peer, n byte) peer.Reach {
	r := peer.Reach{Encap: "vxlan", V4: p.V4, V6: p.V6}
	if r.V4.Addr.IsValid() {
		r.V4.MAC, r.V4.VNI = inet.MAC{2, 4, 5: n}, 1
	}
	if r.V6.Addr.IsValid() {
		r.V6.MAC, r.V6.VNI = inet.MAC{2, 6, 5: n}, 1
	}
	return r
}

func prefixes(all ...string) (p []netip.Prefix) {
	for _, s := range all {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
