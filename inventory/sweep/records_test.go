package sweep_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/inventorytest"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/inventory/sweep"
)

// record is one of the flannel plugin, with the name that flannel's own plugin knows it by.
func record(t *testing.T, w *inventorytest.World, network, id string) (path, theirs string) {
	t.Helper()
	dir := filepath.Join(w.DataDir, ".attachments-"+network)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	path, theirs = filepath.Join(dir, id+":eth0"), filepath.Join(w.DataDir, id)
	require.NoError(t, os.WriteFile(path, []byte(`{"type":"bridge"}`), 0o600))
	require.NoError(t, os.Link(path, theirs))
	return path, theirs
}

func TestRecordsOfTheFlannelPluginGoWithTheirNetwork(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	_, theirs := record(t, w, "blue", "a")
	red, redsName := record(t, w, "red", "b")
	own := filepath.Join(w.DataDir, "c")
	require.NoError(t, os.WriteFile(own, []byte(`{"type":"bridge"}`), 0o600))
	require.Equal(t, []inventory.RecordDir{
		{DataDir: w.DataDir, Path: filepath.Join(w.DataDir, ".attachments-blue"), Network: "blue", Records: 1},
		{DataDir: w.DataDir, Path: filepath.Join(w.DataDir, ".attachments-red"), Network: "red", Records: 1},
	}, w.Read().Records)
	require.Equal(t, []string{"blue", "red"}, w.Read().Networks())
	require.Len(t, w.Read().Only("red").Records, 1)

	require.Equal(t, []string{"records"}, run(t, plan(t, w, "blue")))
	require.NoFileExists(t, theirs)
	require.FileExists(t, red)
	require.FileExists(t, redsName)
	require.FileExists(t, own, "flannel's own")
	require.NoError(t, os.Remove(own))
	require.Equal(t, []string{"records"}, run(t, plan(t, w, "")))
	w.RequireAsBefore()
}

func TestRecordsStayWhereTheyMayBeThoseOfAnotherNamespace(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	path, _ := record(t, w, "blue", "a")
	p, err := sweep.Make(sweep.Options{NS: w.Node, Found: w.Read(), StateDir: w.RunDir, Network: "blue"})
	require.NoError(t, err)
	require.Empty(t, p.Steps)
	require.Len(t, p.Kept, 1)
	require.FileExists(t, path)
}

func TestRecordsOutsideOfTheirDirectoryAreNotFollowed(t *testing.T) {
	t.Parallel()
	w := inventorytest.New(t)
	away := filepath.Join(t.TempDir(), "blue")
	require.NoError(t, os.Mkdir(away, 0o700))
	file := filepath.Join(away, "a:eth0")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink(away, filepath.Join(w.DataDir, ".attachments-blue")))
	run(t, plan(t, w, "blue"))
	require.FileExists(t, file)
}
