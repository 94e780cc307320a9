package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

// told is one thing that a watch said.
type told struct {
	peer.Network
	err error
}

// never is a poll that no test lives to see: what comes was noticed.
const never = 24 * time.Hour

// watch follows a file until the end of the test.
func watch(t *testing.T, s file.Source) <-chan told {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ch, done := make(chan told), make(chan struct{})
	go func() {
		defer close(done)
		for n, err := range s.WatchNetwork(ctx) {
			select {
			case ch <- told{n, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ch
}

// await takes what the watch says until it says what is wanted: a change in several steps may be seen in between.
func await(t *testing.T, ch <-chan told, want string) {
	t.Helper()
	for said := range ch {
		if said.err == nil && names(said.Peers) == want {
			return
		}
	}
}

func TestTheListComesAtOnceAndAgainAfterEveryChange(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	ch := watch(t, file.Source{Path: path, Poll: never})
	require.Equal(t, told{network("a"), nil}, <-ch)

	swap(t, path, doc("a", "b"))
	require.Equal(t, told{network("a", "b"), nil}, <-ch)
	require.NoError(t, file.Write(path, network("c")))
	require.Equal(t, told{network("c"), nil}, <-ch)
	swap(t, path, `{"peers":[]}`)
	require.Equal(t, told{peer.Network{Peers: []peer.Peer{}}, nil}, <-ch)
	put(t, path, doc("a", "b", "c"))
	await(t, ch, "a b c")
}

func TestAnEmptyListIsNotNil(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, `{"peers":[]}`)
	for peers, err := range (file.Source{Path: path}).Watch(t.Context()) {
		require.NoError(t, err)
		require.NotNil(t, peers)
		require.Empty(t, peers)
		break
	}
	require.NoError(t, os.Remove(path))
	for peers, err := range (file.Source{Path: path}).Watch(t.Context()) {
		require.EqualError(t, err, "peers file: open "+path+": no such file or directory; no peers are known yet")
		require.Nil(t, peers, "nothing may be concluded from it")
		break
	}
}

func TestABrokenFileKeepsTheLastGoodStateAndSaysSo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a", "b"))
	ch := watch(t, file.Source{Path: path, Poll: never})
	require.Equal(t, told{network("a", "b"), nil}, <-ch)

	swap(t, path, `{"peers":[`)
	said := <-ch
	require.EqualError(t, said.err, "peers file "+path+": the document is not JSON at line 1, column 10: unexpected end of JSON input; the last good state with 2 peers is kept")
	require.Equal(t, network("a", "b"), said.Network)

	swap(t, path, "")
	said = <-ch
	require.ErrorContains(t, said.err, "the document is empty")
	require.Equal(t, network("a", "b"), said.Network)

	swap(t, path, `{}`)
	said = <-ch
	require.ErrorContains(t, said.err, "peers is missing")
	require.Equal(t, network("a", "b"), said.Network, "no list is not an empty list")

	swap(t, path, doc("a", "b"))
	require.Equal(t, told{network("a", "b"), nil}, <-ch, "the end of the trouble is told though the list is the same")
	swap(t, path, doc("c"))
	require.Equal(t, told{network("c"), nil}, <-ch)
}

func TestOneBadPeerIsReportedAndTheOthersCome(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, strings.Replace(doc("a", "b"), "192.0.2.2", "192.0.2.1", 1))
	ch := watch(t, file.Source{Path: path, Poll: never})
	said := <-ch
	require.Equal(t, network("a"), said.Network)
	require.EqualError(t, said.err, "peers file "+path+`: peer "b": endpoint 192.0.2.1 is also that of peer "a": give every peer an address of its own`)
	var problems peer.Problems
	require.ErrorAs(t, said.err, &problems)
	require.Len(t, problems, 1)
	swap(t, path, doc("a", "b"))
	require.Equal(t, told{network("a", "b"), nil}, <-ch)
}

func TestAFileThatIsRemovedIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	ch := watch(t, file.Source{Path: path, Poll: never})
	require.Equal(t, told{network("a"), nil}, <-ch)
	for _, next := range []string{"a", "b"} {
		require.NoError(t, os.Rename(path, path+".gone"))
		said := <-ch
		require.ErrorIs(t, said.err, fs.ErrNotExist)
		require.ErrorContains(t, said.err, "the last good state with 1 peers is kept")
		require.Equal(t, network("a"), said.Network)
		swap(t, path, doc(next))
		require.Equal(t, told{network(next), nil}, <-ch)
	}
}

func TestDirectoriesMayComeAndGo(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := filepath.Join(top, "etc", "cniblocks")
	path := filepath.Join(dir, "peers.json")
	ch := watch(t, file.Source{Path: path, Poll: never})
	said := <-ch
	require.ErrorIs(t, said.err, fs.ErrNotExist)
	require.Nil(t, said.Peers)
	for _, next := range []string{"a", "b", "c"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		put(t, path, doc(next))
		await(t, ch, next)
		require.NoError(t, os.RemoveAll(filepath.Join(top, "etc")))
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	put(t, path, doc("d"))
	await(t, ch, "d")
	require.NoError(t, os.Rename(dir, dir+".old"))
	require.ErrorIs(t, (<-ch).err, fs.ErrNotExist)
	require.NoError(t, os.Mkdir(dir, 0o755))
	put(t, path, doc("e"))
	await(t, ch, "e")
}

// mount lays out a volume as the kubelet does: the file is a link through a link that is switched in one step.
func mount(t *testing.T, dir, version, content string) {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o755))
	put(t, filepath.Join(dir, version, "peers.json"), content)
	require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if old != "" {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, old)))
		return
	}
	require.NoError(t, os.Symlink("..data/peers.json", filepath.Join(dir, "peers.json")))
}

func TestAConfigMapMountIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mount(t, dir, "..2026_01", doc("a"))
	ch := watch(t, file.Source{Path: filepath.Join(dir, "peers.json"), Poll: never})
	require.Equal(t, told{network("a"), nil}, <-ch)
	for i, next := range []string{"b", "c", "d"} {
		mount(t, dir, fmt.Sprintf("..2026_1%d", i), doc(next))
		require.Equal(t, told{network(next), nil}, <-ch)
	}
}

func TestALinkIsFollowedToWhereItLeads(t *testing.T) {
	t.Parallel()
	here, there := t.TempDir(), t.TempDir()
	path := filepath.Join(here, "peers.json")
	put(t, filepath.Join(there, "one"), doc("a"))
	put(t, filepath.Join(there, "two"), doc("b"))
	require.NoError(t, os.Symlink(there, filepath.Join(here, "dir")))
	require.NoError(t, os.Symlink("dir/../"+filepath.Base(there)+"/one", path))
	ch := watch(t, file.Source{Path: path, Poll: never})
	require.Equal(t, told{network("a"), nil}, <-ch)
	swap(t, filepath.Join(there, "one"), doc("a", "a2"))
	require.Equal(t, told{network("a", "a2"), nil}, <-ch, "the file behind the link")
	require.NoError(t, os.Symlink(filepath.Join(there, "two"), path+".new"))
	require.NoError(t, os.Rename(path+".new", path))
	require.Equal(t, told{network("b"), nil}, <-ch, "the link")
	swap(t, filepath.Join(there, "two"), doc("c"))
	require.Equal(t, told{network("c"), nil}, <-ch, "what the new link leads to")
	require.NoError(t, os.Remove(filepath.Join(there, "two")))
	require.ErrorIs(t, (<-ch).err, fs.ErrNotExist)
	put(t, filepath.Join(there, "two"), doc("d"))
	await(t, ch, "d")
}

func TestAPollSeesWhatTheKernelDoesNotTell(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := filepath.Join(top, "x", "y", "z")
	path := filepath.Join(dir, "peers.json")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	put(t, path, doc("a"))
	ch := watch(t, file.Source{Path: path, Poll: time.Millisecond})
	require.Equal(t, told{network("a"), nil}, <-ch)
	require.NoError(t, os.Rename(filepath.Join(top, "x"), filepath.Join(top, "w"))) // far above
	require.ErrorIs(t, (<-ch).err, fs.ErrNotExist)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	put(t, path, doc("b"))
	await(t, ch, "b")
}

func TestAWriterThatNeverRestsIsHeardAllTheSame(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	ch := watch(t, file.Source{Path: path, Poll: never, Settle: 2 * time.Millisecond})
	require.Equal(t, told{network("a"), nil}, <-ch)
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				stopped <- n
				return
			default:
				n++
				_ = os.WriteFile(path, []byte(doc(fmt.Sprint("n", n))), 0o644)
			}
		}
	}()
	<-ch
	close(stop)
	last := <-stopped
	put(t, path, doc("end"))
	await(t, ch, "end")
	require.Positive(t, last)
}

func TestAfterAnyStormTheLastStateComes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "etc")
			path := filepath.Join(dir, "peers.json")
			require.NoError(t, os.Mkdir(dir, 0o755))
			put(t, path, doc("start"))
			ch := watch(t, file.Source{Path: path, Poll: never, Settle: time.Millisecond})
			require.Equal(t, told{network("start"), nil}, <-ch)
			rng := rand.New(rand.NewPCG(seed, 1))
			for i := range 60 {
				content := doc(fmt.Sprint("n", i))
				switch rng.IntN(7) {
				case 0:
					swap(t, path, content)
				case 1:
					put(t, path, content)
				case 2:
					_ = os.Remove(path)
				case 3:
					put(t, path, content[:rng.IntN(len(content))])
				case 4:
					put(t, path+".target", content)
					_ = os.Remove(path)
					require.NoError(t, os.Symlink("peers.json.target", path))
				case 5:
					require.NoError(t, os.RemoveAll(dir))
					require.NoError(t, os.Mkdir(dir, 0o755))
				case 6:
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
				}
				select {
				case <-ch:
				default:
				}
			}
			swap(t, path, doc("end"))
			await(t, ch, "end")
		})
	}
}

func TestSeveralMayWatchOneFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	s := file.Source{Path: path, Poll: never}
	var all []<-chan told
	for range 4 {
		all = append(all, watch(t, s))
	}
	for _, ch := range all {
		require.Equal(t, told{network("a"), nil}, <-ch)
	}
	swap(t, path, doc("b"))
	for _, ch := range all {
		require.Equal(t, told{network("b"), nil}, <-ch)
	}
}

func TestAnUnreadableFileIsReadOnceItMayBe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	require.NoError(t, os.Mkdir(path, 0o755)) // root reads anything but this
	ch := watch(t, file.Source{Path: path, Poll: never})
	said := <-ch
	require.ErrorContains(t, said.err, "it is not a regular file (d---------); no peers are known yet")
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, (<-ch).err, fs.ErrNotExist)
	swap(t, path, doc("a"))
	require.Equal(t, told{network("a"), nil}, <-ch)
}

func TestATroubleIsToldOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, "broken")
	ch := watch(t, file.Source{Path: path, Poll: time.Millisecond})
	first := <-ch
	require.Error(t, first.err)
	for range 20 { // each is a look
		age(t, path, time.Hour)
		time.Sleep(time.Millisecond)
	}
	swap(t, path, doc("a"))
	require.Equal(t, told{network("a"), nil}, <-ch, "nothing was said in between")
	require.False(t, errors.Is(first.err, fs.ErrNotExist))
}
