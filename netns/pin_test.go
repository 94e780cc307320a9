//go:build linux

package netns_test

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// pinName is one that no other process of these tests uses.
func pinName(what string) string { return fmt.Sprintf("%s%d-%s", nstest.Prefix, os.Getpid(), what) }

func TestAPinnedNamespaceIsListedUntilItIsRemoved(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	name := pinName("listed")
	ns, err := netns.Create(name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = netns.Remove(name) })
	require.NoError(t, ns.Close())
	names, err := netns.List()
	require.NoError(t, err)
	require.Contains(t, names, name)
	require.IsIncreasing(t, names)

	_, err = netns.Create(name)
	require.ErrorIs(t, err, fs.ErrExist)
	again, err := netns.Open(netns.Dir + "/" + name)
	require.NoError(t, err, "the second Create left the first namespace alone")
	require.NoError(t, again.Close())

	require.NoError(t, netns.Remove(name))
	names, err = netns.List()
	require.NoError(t, err)
	require.NotContains(t, names, name)
	require.ErrorIs(t, netns.Remove(name), fs.ErrNotExist)
}

func TestAPinWhoseMountIsGoneIsNotListedAndCanBeRemoved(t *testing.T) {
	t.Parallel()
	nstest.Named(t) // makes the directory
	name := pinName("stale")
	require.NoError(t, os.WriteFile(netns.Dir+"/"+name, nil, 0o444))
	names, err := netns.List()
	require.NoError(t, err)
	require.NotContains(t, names, name)
	require.NoError(t, netns.Remove(name))
}

func TestRemoveNeverFollowsALink(t *testing.T) {
	t.Parallel()
	target, _ := nstest.Named(t)
	name := pinName("link")
	require.NoError(t, os.Symlink(netns.Dir+"/"+target, netns.Dir+"/"+name))
	require.NoError(t, netns.Remove(name))
	ns, err := netns.Open(netns.Dir + "/" + target)
	require.NoError(t, err)
	require.NoError(t, ns.Close())
}

func TestAPinsNameIsOnePathElement(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "a/b", "../x", "/abs", "x/", strings.Repeat("n", 256)} {
		_, err := netns.Create(name)
		require.ErrorContains(t, err, "want one path element", name)
		require.ErrorContains(t, netns.Remove(name), "want one path element", name)
	}
	_, err := netns.Create("nul\x00byte")
	require.Error(t, err)
}

func TestManyPinsAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			name := pinName(fmt.Sprint("many", i))
			ns, err := netns.Create(name)
			if err == nil {
				ns.Close()
				err = netns.Remove(name)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
