//go:build linux

package etcd_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

const nodePassword = "correct-horse-battery"

// secure has the server ask for passwords: of root, and of a node that may do what nodes do.
func (w *world) secure() {
	for _, args := range [][]string{
		{"role", "add", "node"},
		{"role", "grant-permission", "node", "read", w.prefix + "/config"},
		{"role", "grant-permission", "--prefix=true", "node", "readwrite", w.prefix + "/subnets/"},
		{"role", "grant-permission", "--prefix=true", "node", "readwrite", "/cniblocks/claims" + w.prefix + "/"},
		{"user", "add", "node:" + nodePassword}, {"user", "grant-role", "node", "node"},
		{"user", "add", "root:root-secret"}, {"user", "grant-role", "root", "root"}, {"auth", "enable"},
	} {
		w.s.Ctl(w.t, args...)
	}
}

// root runs etcdctl as root of a server that is secure. On a machine so busy that its own token expires meanwhile, once more.
func (w *world) root(args ...string) (out string) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(t *assert.CollectT) {
		var err error
		out, err = w.s.TryCtl(append([]string{"--user", "root:root-secret", "--command-timeout", "10s"}, args...)...)
		require.NoError(t, err, "etcdctl %q: %s", args, out)
	}, 2*patience, 10*time.Millisecond)
	return out
}

func asNode(o *etcd.Options) { o.Username, o.Password = "node", nodePassword }

func TestATokenThatHasExpiredIsRenewedAtOnceAndNobodyHearsOfIt(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]func(*testing.T) []string{
		"simple": func(*testing.T) []string { return []string{"--auth-token", "simple", "--auth-token-ttl", "3"} },
		"jwt": func(t *testing.T) []string {
			a := newAuthority(t)
			_, key := a.issue("token")
			return []string{"--auth-token", "jwt,pub-key=" + a.path("token.pub") + ",priv-key=" + key + ",sign-method=ES256,ttl=3s"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, etcdtest.New(t, args(t)...), small)
			w.secure()
			expire := func() { time.Sleep(6 * time.Second) } // etcd looks every second
			h := hold(t, w, want("a", "192.0.2.1"), withTTL(9*time.Second), asNode)
			all := observe(t, h.Store)
			require.Equal(t, "a", addresses(next(t, all).list))

			expire()
			w.root("put", w.prefix+"/subnets/"+other(h.Peer), value("192.0.2.7", 7))
			got := next(t, all)
			require.NoError(t, got.err)
			require.Len(t, got.list, 2)
			begin := time.Now()
			require.NoError(t, h.Publish(within(t, patience), vxlan(h.Peer, 9)))
			t.Logf("a Publish with a token that has expired took %s", time.Since(begin).Round(100*time.Microsecond))
			for got = next(t, all); got.list[0].V4.MAC[5] != 9; got = next(t, all) {
				require.NoError(t, got.err)
			}

			expire()
			configs, ended := make(chan error, 100), make(chan struct{})
			ctx, stop := context.WithCancel(t.Context())
			go func() { // a watch that begins when the others are old
				defer close(ended)
				for _, err := range h.WatchConfig(ctx) {
					configs <- err
				}
			}()
			require.NoError(t, <-configs)
			w.root("put", w.prefix+"/config", strings.Replace(small, "vxlan", "host-gw", 1))
			require.NoError(t, <-configs)
			stop()
			<-ended

			time.Sleep(9 * time.Second) // the lease is renewed meanwhile
			require.Empty(t, h.lost)
			require.Contains(t, w.root("get", "--prefix", "--keys-only", w.prefix+"/subnets/"), h.key())
			for len(all) > 0 {
				require.NoError(t, (<-all).err)
			}
		})
	}
}

func TestAUserWhoIsTakenAwayIsToldAndTheListStaysUntilHeIsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t, "--auth-token-ttl", "3"), small)
	w.secure()
	w.root("put", w.prefix+"/subnets/10.244.1.0-24", value("192.0.2.1", 1))
	all := observe(t, w.node(asNode))
	require.Equal(t, "192.0.2.1", addresses(next(t, all).list))
	w.root("user", "delete", "node")
	w.s.Cut(true)
	w.s.Cut(false)
	got := next(t, all)
	for got.err == nil || !strings.Contains(got.err.Error(), "authentication failed") {
		got = next(t, all)
	}
	require.Equal(t, "192.0.2.1", addresses(got.list))
	hide(t, got.err, nodePassword)
	w.root("user", "add", "node:"+nodePassword)
	w.root("user", "grant-role", "node", "node")
	begin := time.Now()
	for got.err != nil {
		got = next(t, all)
	}
	t.Logf("back %s after the user", time.Since(begin).Round(time.Millisecond))
	require.Equal(t, "192.0.2.1", addresses(got.list))
}
