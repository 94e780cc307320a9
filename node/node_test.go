//go:build linux

package node_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

// file is what a machine with both families knows of itself.
func file(t *testing.T) node.File {
	t.Helper()
	n, problems, err := peer.Parse([]byte(`{"network": ["10.244.0.0/16", "fd00:10:244::/48"], "peers": [{"name": "a",
		"endpoint": ["192.0.2.11", "2001:db8::11"], "pods": ["10.244.1.0/24", "fd00:10:244:1::/64"]}]}`))
	require.NoError(t, err)
	require.Empty(t, problems)
	return node.File{Self: n.Peers[0], Network: peer.Network{Prefixes: n.Prefixes}, MTU: 1450, Source: "8:1234:99"}
}

func TestWhatIsWrittenIsReadInTheSameBootAndNamespace(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	path := filepath.Join(node.Dir(t.TempDir(), "net"), "node.json")
	for _, agent := range []bool{false, true} {
		want := file(t)
		want.Agent, want.IPMasq = agent, agent
		require.NoError(t, node.Write(ns, path, want))
		got, err := node.Read(ns, path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o644, st.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

func TestAFileOfAnotherBootOrNamespaceOrOfNoSenseIsNotThere(t *testing.T) {
	t.Parallel()
	ns, other := nstest.New(t), nstest.New(t)
	path := filepath.Join(t.TempDir(), "node.json")
	_, err := node.Read(ns, path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, node.Write(ns, path, file(t)))
	_, err = node.Read(other, path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "of another boot or namespace")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	change := func(key string, value any) []byte {
		var m map[string]any
		require.NoError(t, json.Unmarshal(good, &m))
		m[key] = value
		b, err := json.Marshal(m)
		require.NoError(t, err)
		return b
	}
	for name, b := range map[string][]byte{
		"another boot": change("boot", "00000000-0000-0000-0000-000000000000"), "another cookie": change("cookie", 1),
		"torn": good[:len(good)/2], "empty": {}, "null": []byte("null"), "a list": []byte("[]"),
		"no node": change("document", map[string]any{"peers": []any{}}), "no document": change("document", nil),
		"a cookie of another kind": change("cookie", "x"),
	} {
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err := node.Read(ns, path)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
}

func TestReadersNeverSeeATornFile(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	path := filepath.Join(t.TempDir(), "node.json")
	want := file(t)
	require.NoError(t, node.Write(ns, path, want))
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			for range 100 {
				if i%2 == 0 {
					errs[i] = node.Write(ns, path, want)
				} else if _, err := node.Read(ns, path); err != nil {
					errs[i] = err
				}
				if errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestAWriteThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600))
	require.Error(t, node.Write(ns, filepath.Join(dir, "plain", "node.json"), file(t)))
	taken := filepath.Join(dir, "net", "node.json")
	require.NoError(t, os.MkdirAll(taken, 0o755))
	require.Error(t, node.Write(ns, taken, file(t)))
	entries, err := os.ReadDir(filepath.Join(dir, "net"))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestWhatAKilledWriterLeftGoesWithTheNextAndWritersDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	path := filepath.Join(t.TempDir(), "net", "node.json")
	f := file(t)
	require.NoError(t, node.Write(ns, path, f))
	require.NoError(t, os.WriteFile(path+".new", []byte(`{"boot":`), 0o644))
	var writers sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		writers.Go(func() {
			for range 20 {
				errs[i] = errors.Join(errs[i], node.Write(ns, path, f))
				_, err := node.Read(ns, path)
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	writers.Wait()
	require.NoError(t, errors.Join(errs...))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestTheDirectoryIsOneOfANetwork(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	for _, network := range []string{"", ".", "..", "../x", "a/b", "../../x/y", "/x"} {
		_, err := node.OpenDir(filepath.Join(top, "a", "b"), network)
		require.ErrorContains(t, err, "want one path element", network)
	}
	entries, err := os.ReadDir(top)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.Equal(t, "/run/cniblocks/pods", node.Dir("", "pods"))
	require.Equal(t, "/elsewhere/pods", node.Dir("/elsewhere", "pods"))
}
