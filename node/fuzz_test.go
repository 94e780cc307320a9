//go:build linux

package node_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/node"
)

// FuzzAFileNamesOneNodeOrNone: what is read comes back the same when it is written.
func FuzzAFileNamesOneNodeOrNone(f *testing.F) {
	nstest.NeedRoot(f)
	f.Add([]byte(`{"peers":[{"name":"a","endpoint":"192.0.2.11","pods":["10.244.1.0/24"]}],"network":"10.244.0.0/16"}`), 1450, "source", false)
	f.Add([]byte(`{"peers":[]}`), 0, "", true)
	f.Add([]byte(`{"peers":[{"name":"a"},{"name":"b"}]}`), -1, "\xff", true)
	f.Add([]byte(`null`), 0, "", true)
	ns := nstest.New(f)
	id, err := boot.ID()
	require.NoError(f, err)
	cookie, err := ns.Cookie()
	require.NoError(f, err)
	path := filepath.Join(f.TempDir(), "net", "node.json")
	require.NoError(f, os.Mkdir(filepath.Dir(path), 0o755))
	f.Fuzz(func(t *testing.T, document []byte, mtu int, source string, agent bool) {
		b, err := json.Marshal(map[string]any{"boot": id, "cookie": cookie, "document": json.RawMessage(document), "mtu": mtu, "source": source, "agent": agent})
		if err != nil {
			b = document
		}
		require.NoError(t, os.WriteFile(path, b, 0o644))
		got, err := node.Read(ns, path)
		if err != nil {
			return
		}
		require.NoError(t, node.Write(ns, path, got))
		again, err := node.Read(ns, path)
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
