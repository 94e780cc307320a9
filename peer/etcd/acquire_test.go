//go:build linux

package etcd_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer/etcd/etcdtest"
)

const small = `{ "Network": "10.244.0.0/22", "SubnetLen": 24, "Backend": { "Type": "vxlan" } }` // three ranges

func TestANodeTakesARangeAndPublishesItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	s := w.node(withState(w.stateFile()))
	ctx := within(t, 30*time.Second)
	p, err := s.Acquire(ctx, want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Len(t, p.Pods, 1)
	require.NoError(t, s.Publish(ctx, vxlan(p, 1)))
	for list, err := range s.Watch(ctx) {
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, "a", list[0].Name)
		break
	}
	t.Log(w.keys(), w.s.Ctl(t, "get", "--prefix", "/"), s.Status())
}
