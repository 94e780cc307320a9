//go:build linux

package kube_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer/flannel"
	"github.com/cniblocks/cniblocks/peer/kube"
)

func TestTheFileWithTheConfigurationIsWatchedAndNothingFollowsFromIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "net-conf.json")
	put := func(s string) { // as kubelet does it, in one step
		require.NoError(t, os.WriteFile(path+".new", []byte(s), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	config := filepath.Join(dir, "kubeconfig")
	require.NoError(t, os.WriteFile(config, []byte(`{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
		"contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}`), 0o600))
	put(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`)
	s, err := kube.NewAt(kube.Options{Kubeconfig: config, NetConf: path}, func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Poll(time.Millisecond)
	first, err := s.Config(t.Context())
	require.NoError(t, err)

	type told struct {
		flannel.Config
		error
	}
	all, done := make(chan told), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for c, err := range s.WatchConfig(ctx) {
			all <- told{c, err}
		}
	}()
	require.Equal(t, told{first, nil}, <-all)
	put(`{"Network": "10.244.0.0/16",   "Backend": {"Type": "vxlan"}}`) // means the same
	put(`{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}`)
	got := <-all
	require.NoError(t, got.error)
	require.Equal(t, "host-gw", got.Backend.Type)
	put("{")
	got = <-all
	require.Zero(t, got.Config)
	require.ErrorContains(t, got.error, path)
	require.NoError(t, os.Remove(path))
	got = <-all
	require.ErrorIs(t, got.error, os.ErrNotExist)
	put(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`)
	require.Equal(t, told{first, nil}, <-all)
	now, err := s.Config(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, now)
	cancel()
	<-done
}
