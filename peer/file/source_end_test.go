package file_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

func TestAWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "peers.json"), doc("a"))
	for _, path := range []string{filepath.Join(dir, "peers.json"), filepath.Join(dir, "missing", "peers.json")} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		said := 0
		for range (file.Source{Path: path, Poll: never}).Watch(ctx) { //nolint:errcheck // what it yields does not matter here
			said++
			time.AfterFunc(time.Millisecond, cancel) // while it waits
		}
		require.Equal(t, 1, said)
		for range (file.Source{Path: path}).Watch(ctx) { //nolint:errcheck // what it yields does not matter here
			require.Fail(t, "it was over before it began")
		}
	}
}

func TestAWatchEndsWhileAChangeSettles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := 0
	for range (file.Source{Path: path, Poll: never, Settle: never}).Watch(ctx) { //nolint:errcheck // what it yields does not matter here
		said++
		swap(t, path, doc("b"))
		time.AfterFunc(10*time.Millisecond, cancel)
	}
	require.Equal(t, 1, said)
}

func TestACallerMayLeaveAtAnyTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	said := 0
	for range (file.Source{Path: path}).Watch(t.Context()) { //nolint:errcheck // what it yields does not matter here
		said++
		break
	}
	require.Equal(t, 1, said)
	require.PanicsWithValue(t, "caller", func() {
		for range (file.Source{Path: path}).Watch(t.Context()) { //nolint:errcheck // what it yields does not matter here
			panic("caller")
		}
	})
}

func TestAListIsTheCallersToKeep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a", "b"))
	step := 0
	for n, err := range (file.Source{Path: path, Poll: never}).WatchNetwork(t.Context()) {
		if step++; step == 1 {
			require.NoError(t, err)
			n.Peers[0], n.Prefixes[0] = peer.Peer{}, n.Peers[1].Pods[0]
			swap(t, path, "broken")
			continue
		}
		require.Error(t, err)
		require.Equal(t, network("a", "b"), n)
		break
	}
}
