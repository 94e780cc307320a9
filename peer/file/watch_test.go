package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/require"
)

// tree makes directories (with a slash at the end), files, and links ("name -> target") below a new directory.
func tree(t *testing.T, entries ...[2]string) string {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, e := range entries {
		path := filepath.Join(top, e[0])
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if e[1] == "" {
			require.NoError(t, os.WriteFile(path, nil, 0o644))
			continue
		}
		require.NoError(t, os.Symlink(e[1], path))
	}
	return top
}

func TestTheWayToAFileIsWatchedWhereItCanChange(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		tree        [][2]string
		path        string
		dirs, names []string
	}{
		"a file":                 {[][2]string{{"etc/p", ""}}, "etc/p", []string{"etc"}, []string{"etc/p"}},
		"a missing file":         {[][2]string{{"etc/q", ""}}, "etc/p", []string{"etc"}, []string{"etc/p"}},
		"a missing directory":    {[][2]string{{"etc/q", ""}}, "etc/x/y/p", []string{"etc"}, []string{"etc/x"}},
		"a file for a directory": {[][2]string{{"etc/q", ""}}, "etc/q/p", []string{"etc/q"}, []string{"etc/q/p"}},
		"a link":                 {[][2]string{{"srv/q", ""}, {"etc/p", "../srv/q"}}, "etc/p", []string{"etc", "srv"}, []string{"etc/p", "srv/q"}},
		"a dangling link":        {[][2]string{{"etc/p", "../srv/q"}}, "etc/p", []string{"etc", "."}, []string{"etc/p", "srv"}},
		"a linked directory":     {[][2]string{{"srv/p", ""}, {"etc", "srv"}}, "etc/p", []string{".", "srv"}, []string{"etc", "srv/p"}},
		"a volume": {[][2]string{{"v/..1/p", ""}, {"v/..data", "..1"}, {"v/p", "..data/p"}}, "v/p",
			[]string{"v", "v/..1"}, []string{"v/p", "v/..data", "v/..1/p"}},
		"dots":           {[][2]string{{"etc/p", ""}, {"l", "./etc/../etc/./p"}}, "l", []string{".", "etc"}, []string{"l", "etc/p"}},
		"a loop":         {[][2]string{{"p", "q"}, {"q", "p"}}, "p", []string{"."}, []string{"p", "q"}},
		"a link to self": {[][2]string{{"p", "p"}}, "p", []string{"."}, []string{"p"}},
	} {
		top := tree(t, c.tree...)
		var want way
		for _, d := range c.dirs {
			want.dirs = append(want.dirs, filepath.Join(top, d))
		}
		for _, n := range c.names {
			want.names = append(want.names, filepath.Join(top, n))
		}
		require.Equal(t, want, follow(filepath.Join(top, c.path)), what)
	}
}

func TestALinkMayBeAbsolute(t *testing.T) {
	t.Parallel()
	there := tree(t, [2]string{"q", ""})
	here := tree(t, [2]string{"p", filepath.Join(there, "q")})
	require.Equal(t, way{[]string{here, there}, []string{filepath.Join(here, "p"), filepath.Join(there, "q")}}, follow(filepath.Join(here, "p")))
	require.Zero(t, follow("/"))
}

func TestOnlyWhatLiesOnTheWayIsOfConcern(t *testing.T) {
	t.Parallel()
	top := tree(t, [2]string{"v/..1/p", ""}, [2]string{"v/..data", "..1"}, [2]string{"v/p", "..data/p"})
	w, err := watch(filepath.Join(top, "v/p"))
	require.NoError(t, err)
	defer w.close()
	for name, want := range map[string]bool{
		"v/p": true, "v/..data": true, "v/..1": true, "v/..1/p": true, "v": true,
		"v/q": false, "v/..data_tmp": false, "v/..1/q": false, "v/.p.swp": false, "x": false, "": false,
	} {
		require.Equal(t, want, w.relevant(fsnotify.Event{Name: filepath.Join(top, name), Op: fsnotify.Create}), name)
	}
	require.False(t, w.relevant(fsnotify.Event{}))
}

func TestWithoutAWatcherThePollDecides(t *testing.T) {
	t.Parallel()
	var w *watcher
	looks := 0
	require.True(t, w.wait(t.Context(), time.Millisecond, time.Hour, func() bool { looks++; return looks < 3 }))
	require.Equal(t, 3, looks)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, w.wait(ctx, time.Hour, time.Hour, nil))
	w.close()
}

func TestWhatCannotBeWatchedIsSaid(t *testing.T) {
	t.Parallel()
	_, err := watchWay(way{dirs: []string{filepath.Join(t.TempDir(), "missing")}})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "inotify on ")
}

func TestAStateHasNewsOnlyWhenSomethingIsNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	blind := errors.New("cannot be watched")
	const a, b, warned = `{"peers":[{"name":"a","endpoint":"192.0.2.1","pods":"10.0.0.0/24"}]}`, `{"peers":[]}`, `{"peers":[],"peer":1}`
	st := state{path: path}
	for i, step := range []struct {
		content  string // "" removes the file
		watching error
		news     bool
		peers    int
		err      string
	}{
		{"", nil, true, 0, "no such file or directory; no peers are known yet"},
		{"", nil, false, 0, "no such file or directory; no peers are known yet"},
		{a, nil, true, 1, ""},
		{a, nil, false, 1, ""},
		{a, blind, true, 1, "cannot be watched"},
		{a, blind, false, 1, "cannot be watched"},
		{a + " ", blind, true, 1, "cannot be watched"}, // another hash
		{a, nil, true, 1, ""},
		{"x", nil, true, 1, "the last good state with 1 peers is kept"},
		{"x", nil, false, 1, "the last good state with 1 peers is kept"},
		{"y", nil, true, 1, "invalid character 'y'"},
		{"y", blind, true, 1, "is kept\ncannot be watched"},
		{"", nil, true, 1, "no such file or directory; the last good state with 1 peers is kept"},
		{a, nil, true, 1, ""},
		{b, nil, true, 0, ""},
		{warned, nil, true, 0, `key "peer" is unknown`},
		{warned, nil, false, 0, `key "peer" is unknown`},
		{warned, blind, true, 0, "did you mean \"peers\"?\ncannot be watched"},
		{b, nil, true, 0, ""},
	} {
		if step.content == "" {
			_ = os.Remove(path)
		} else {
			require.NoError(t, os.WriteFile(path, []byte(step.content), 0o644))
		}
		require.Equal(t, step.news, st.look(step.watching), "step %d", i)
		require.Len(t, st.network().Peers, step.peers, "step %d", i)
		if step.err == "" {
			require.NoError(t, st.err, "step %d", i)
		} else {
			require.ErrorContains(t, st.err, step.err, "step %d", i)
		}
	}
}
