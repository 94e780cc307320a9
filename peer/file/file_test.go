package file_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

// network makes a valid network of peers with these names.
func network(names ...string) peer.Network {
	n := peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Peers: []peer.Peer{}}
	for i, name := range names {
		n.Peers = append(n.Peers, peer.Peer{
			Name:  name,
			Pods:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)},
			Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}},
		})
	}
	return n
}

func doc(names ...string) string { return string(peer.Format(network(names...))) }

func names(peers []peer.Peer) string {
	var s []string
	for _, p := range peers {
		s = append(s, p.Name)
	}
	return strings.Join(s, " ")
}

// put writes a file in place.
func put(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// swap replaces a file in one step.
func swap(t testing.TB, path, content string) {
	t.Helper()
	put(t, path+".new", content)
	require.NoError(t, os.Rename(path+".new", path))
}

// age makes a file look as if it had been written some time ago; its ctime stays.
func age(t testing.TB, path string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	require.NoError(t, os.Chtimes(path, then, then))
}

func TestADocumentIsLoadedWithItsProblemsAndItsIdentity(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	content := strings.Replace(doc("a", "b", "c"), `"192.0.2.2"`, `"x"`, 1)
	put(t, path, content)
	got, err := file.Load(path)
	require.NoError(t, err)
	require.Equal(t, "a c", names(got.Peers))
	require.Equal(t, network().Prefixes, got.Prefixes)
	require.EqualError(t, got.Problems.Err(), `peer "b": endpoint "x" is not an IP address: write the node's address on the underlay; names are not looked up`)
	id, err := file.Identify(path)
	require.NoError(t, err)
	require.Equal(t, id, got.ID)
	require.Equal(t, file.Sum([]byte(content)), got.ID.Hash)
}

func TestWhatCannotBeLoadedIsAnErrorThatNamesTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put(t, path("broken"), `{"peers":[`)
	put(t, path("empty"), "")
	put(t, path("host-bits"), `{"network":"10.0.0.1/8","peers":[]}`)
	require.NoError(t, syscall.Mkfifo(path("fifo"), 0o644))
	require.NoError(t, os.Symlink("loop", path("loop")))
	require.NoError(t, os.Truncate(path("empty"), 0))
	put(t, path("huge"), "")
	require.NoError(t, os.Truncate(path("huge"), peer.MaxSize+1)) // a hole
	for name, want := range map[string]string{
		"broken":    "peers file %s: the document is not JSON at line 1, column 10: unexpected end of JSON input",
		"empty":     `peers file %s: the document is empty: want { "network": [ ... ], "peers": [ ... ] }`,
		"host-bits": "peers file %s: network 10.0.0.1/8 has bits set beyond its length of 8: write 10.0.0.0/8",
		"fifo":      "peers file: read %s: it is not a regular file (p---------)",
		".":         "peers file: read %s: it is not a regular file (d---------)",
		"huge":      "peers file: read %s: it has 67108865 bytes, more than 67108864: split the network",
		"missing":   "peers file: open %s: no such file or directory",
		"broken/x":  "peers file: open %s: not a directory",
		"loop":      "peers file: open %s: too many levels of symbolic links",
	} {
		got, err := file.Load(path(name))
		require.EqualError(t, err, fmt.Sprintf(want, path(name)))
		require.Zero(t, got)
		require.Equal(t, name == "missing", errors.Is(err, fs.ErrNotExist), name)
	}
}

func TestWhatIsWrittenIsLoadedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	for _, n := range []peer.Network{network("a", "b"), network(), network("c")} {
		require.NoError(t, file.Write(path, n))
		got, err := file.Load(path)
		require.NoError(t, err)
		require.Empty(t, got.Problems)
		require.Equal(t, n, got.Network)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left")
}

func TestWritingKeepsPermissionsAndLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real", "peers.json"), filepath.Join(dir, "peers.json")
	require.NoError(t, os.Mkdir(filepath.Dir(real), 0o755))
	require.NoError(t, os.Symlink("real/peers.json", link))
	mode := func() fs.FileMode {
		info, err := os.Stat(real)
		require.NoError(t, err)
		return info.Mode()
	}
	put(t, real, doc("a"))
	require.NoError(t, os.Chmod(real, 0o600))
	require.NoError(t, file.Write(link, network("b")))
	require.Equal(t, fs.FileMode(0o600), mode())
	to, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, "real/peers.json", to)
	got, err := file.Load(real)
	require.NoError(t, err)
	require.Equal(t, "b", names(got.Peers))

	fresh := filepath.Join(dir, "fresh.json")
	require.NoError(t, file.Write(fresh, network("b")))
	info, err := os.Stat(fresh)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o644), info.Mode())
}

func TestWhatCannotBeWrittenLeavesTheFileAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "peers.json")
	put(t, path, doc("a"))
	bad := network("a", "a")
	require.EqualError(t, file.Write(path, bad), "peers file "+path+` is left as it is: peers[1]: name "a" is also that of peers[0]: give every peer a name of its own`)
	err := file.Write(filepath.Join(dir, "missing", "peers.json"), network("a"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "write peers file")
	require.Error(t, file.Write(dir, network("a")), "a directory is not replaced")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, doc("a"), string(content))
	for _, d := range []string{dir, filepath.Dir(dir)} {
		left, err := filepath.Glob(filepath.Join(d, ".*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestAReaderSeesTheOldDocumentOrTheNewOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	require.NoError(t, file.Write(path, network("a")))
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 100 {
			n := network("a")
			if i%2 == 0 {
				n = network("a", "b", "c")
			}
			if file.Write(path, n) != nil {
				return
			}
		}
	})
	seen := map[string]int{}
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		got, err := file.Load(path)
		require.NoError(t, err)
		seen[names(got.Peers)]++
	}
	wg.Wait()
	for what := range seen {
		require.Contains(t, []string{"a", "a b c"}, what)
	}
}

func TestAnIdentityIsKnownAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	id, err := file.Identify(path)
	require.NoError(t, err)
	require.NotZero(t, id.Dev)
	require.NotZero(t, id.Ino)
	require.EqualValues(t, len(doc("a")), id.Size)
	now, same, err := id.Same(path)
	require.NoError(t, err)
	require.True(t, same)
	require.Equal(t, id.Hash, now.Hash)

	j, err := json.Marshal(id)
	require.NoError(t, err)
	var back file.ID
	require.NoError(t, json.Unmarshal(j, &back))
	require.Equal(t, id, back)
	require.True(t, id == back, "it is comparable")
}

func TestEveryChangeOfContentIsSeenAndNothingElse(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(path string)
		same   bool
	}{
		"nothing":            {func(string) {}, true},
		"read":               {func(p string) { _, _ = os.ReadFile(p) }, true},
		"times":              {func(p string) { age(t, p, time.Hour) }, true},
		"permissions":        {func(p string) { _ = os.Chmod(p, 0o600) }, true},
		"written the same":   {func(p string) { put(t, p, doc("a")) }, true},
		"replaced the same":  {func(p string) { swap(t, p, doc("a")) }, true},
		"a link to the same": {func(p string) { _ = os.Rename(p, p+".x"); _ = os.Symlink(p+".x", p) }, true},
		"other":              {func(p string) { put(t, p, doc("b")) }, false},
		"other, replaced":    {func(p string) { swap(t, p, doc("b")) }, false},
		"longer":             {func(p string) { put(t, p, doc("a", "b")) }, false},
		"empty":              {func(p string) { put(t, p, "") }, false},
	} {
		path := filepath.Join(t.TempDir(), "peers.json")
		put(t, path, doc("a"))
		id, err := file.Identify(path)
		require.NoError(t, err)
		c.change(path)
		now, same, err := id.Same(path)
		require.NoError(t, err, what)
		require.Equal(t, c.same, same, what)
		again, err := file.Identify(path)
		require.NoError(t, err)
		require.Equal(t, again.Hash, now.Hash, what)
	}
}

func TestAYoungFileIsNotTrustedByItsTimes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	id, err := file.Identify(path)
	require.NoError(t, err)
	require.False(t, id.Settled)

	// A change within the same tick of the clock leaves all of stat(2) as it was: the identity is made to look so.
	put(t, path, doc("b"))
	twin, err := file.Identify(path)
	require.NoError(t, err)
	twin.Hash = id.Hash
	_, same, err := twin.Same(path)
	require.NoError(t, err)
	require.False(t, same, "the hash decides")

	twin.Settled = true
	_, same, err = twin.Same(path)
	require.NoError(t, err)
	require.True(t, same, "the times decide, and no file is read")
}

func TestAnIdentitySettlesWithTheAgeOfTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	id, err := file.Identify(path)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		now, same, err := id.Same(path)
		return err == nil && same && now.Settled
	}, time.Minute, 50*time.Millisecond)
	now, _, err := id.Same(path)
	require.NoError(t, err)
	require.NotEqual(t, id, now)
	id.Settled = true
	require.Equal(t, id, now, "nothing else is different")
}

func TestTimesInTheFutureAreNotTrusted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	put(t, path, doc("a"))
	age(t, path, -time.Hour)
	id, err := file.Identify(path)
	require.NoError(t, err)
	require.False(t, id.Settled)
}

func TestAFileThatIsGoneHasNoIdentity(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	_, err := file.Identify(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, id := range []file.ID{{}, {Settled: true}} {
		now, same, err := id.Same(path)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, path)
		require.False(t, same)
		require.Zero(t, now)
	}
	put(t, path, doc("a"))
	now, same, err := file.ID{}.Same(path)
	require.NoError(t, err)
	require.False(t, same)
	require.Equal(t, file.Sum([]byte(doc("a"))), now.Hash)
	_, _, err = file.ID{}.Same(filepath.Dir(path))
	require.ErrorContains(t, err, "it is not a regular file")
}

func TestAHashIsAText(t *testing.T) {
	t.Parallel()
	h := file.Sum(nil)
	require.Equal(t, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", h.String())
	text, err := h.MarshalText()
	require.NoError(t, err)
	var back file.Hash
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, h, back)
	for _, bad := range []string{"", "e3", "zz" + h.String()[2:], h.String() + "00"} {
		require.EqualError(t, back.UnmarshalText([]byte(bad)), fmt.Sprintf("hash %q: want 64 hexadecimal digits", bad))
		require.Equal(t, h, back)
	}
}

func BenchmarkSame(b *testing.B) {
	path := filepath.Join(b.TempDir(), "peers.json")
	put(b, path, doc("a", "b", "c"))
	id, err := file.Identify(path)
	require.NoError(b, err)
	id.Settled = true
	for b.Loop() {
		_, same, err := id.Same(path)
		if err != nil || !same {
			b.Fatal(same, err)
		}
	}
}
