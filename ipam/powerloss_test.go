//go:build linux

package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/mark"
)

// content is what a file held at some time, and which file it was.
type content struct {
	id    identity
	bytes []byte
}

// image is the whole data directory at one time.
type image struct {
	dirs  map[string]unix.Timespec
	files map[string]content
	held  map[Owner][]string // what finished calls gave out and did not take back
	boot  string
}

// recorder keeps an image of the directory before every system call that writes, and every lease file under a second
// name, so that an image can be brought back with inodes and times as they were.
type recorder struct {
	t      *testing.T
	dir    Dir
	keep   string
	held   map[Owner][]string
	images []image
}

func record(t *testing.T, work func(*recorder)) *recorder {
	r := &recorder{t: t, dir: memDir(t), held: map[Owner][]string{}}
	r.keep = r.dir.DataDir + "/keep"
	r.dir.DataDir += "/data"
	require.NoError(t, os.Mkdir(r.keep, 0o700))
	require.NoError(t, os.Mkdir(r.dir.DataDir, 0o700))
	r.dir.hooks = &hooks{watch: r.look}
	work(r)
	r.look()
	return r
}

// kept is the second name of a lease file.
func (r *recorder) kept(id identity) string {
	return filepath.Join(r.keep, fmt.Sprint(id.ino, "-", id.mtime))
}

func (r *recorder) look() {
	now := image{map[string]unix.Timespec{}, map[string]content{}, maps.Clone(r.held), r.dir.BootID}
	err := filepath.WalkDir(r.dir.DataDir, func(path string, e fs.DirEntry, err error) error {
		require.NoError(r.t, err)
		name, err := filepath.Rel(r.dir.DataDir, path)
		require.NoError(r.t, err)
		var st unix.Stat_t
		require.NoError(r.t, unix.Lstat(path, &st))
		if e.IsDir() {
			now.dirs[name] = st.Mtim
			return nil
		}
		b, err := os.ReadFile(path)
		require.NoError(r.t, err)
		now.files[name] = content{identify(&st), b}
		if _, ok := parseName(filepath.Base(name)); ok {
			if err := os.Link(path, r.kept(identify(&st))); !errors.Is(err, fs.ErrExist) {
				require.NoError(r.t, err)
			}
		}
		return nil
	})
	require.NoError(r.t, err)
	r.images = append(r.images, now)
}

func (r *recorder) allocator() Allocator { return Allocator{r.dir, crashPools} }

func (r *recorder) allocate(o Owner, wanted ...string) {
	r.t.Helper()
	r.held[o] = allocate(r.t, r.allocator(), o, wanted...)
}

func (r *recorder) release(o Owner) {
	r.t.Helper()
	delete(r.held, o)
	require.NoError(r.t, r.dir.Release(r.t.Context(), o))
}

func (r *recorder) retain(owners ...Owner) {
	r.t.Helper()
	maps.DeleteFunc(r.held, func(o Owner, _ []string) bool { return !slices.Contains(owners, o) })
	require.NoError(r.t, r.dir.Retain(r.t.Context(), slices.Values(owners)))
}

func (r *recorder) reboot(n int) {
	r.dir = r.dir.reboot(n)
	clear(r.held)
}

// workloads end with a power loss, at any of their writes.
var workloads = map[string]func(*recorder){
	"one boot": func(r *recorder) {
		for _, o := range []Owner{alice, bob, carol} {
			r.allocate(o)
		}
		r.release(bob)
		r.allocate(Owner{"d", "eth0"}, "10.1.0.6", "fd00::5")
		r.retain(alice, Owner{"d", "eth0"})
		r.allocate(bob)
	},
	"two boots": func(r *recorder) {
		for i := range 6 {
			r.allocate(Owner{fmt.Sprint("old", i), "eth0"})
		}
		r.reboot(2)
		r.allocate(Owner{"old3", "eth0"})
		r.allocate(alice)
		r.allocate(bob, "10.1.0.3")
		r.release(Owner{"old0", "eth0"})
		r.release(alice)
		r.retain(bob)
		r.allocate(carol)
	},
	"three boots without a clean end": func(r *recorder) {
		r.allocate(alice)
		r.allocate(bob)
		r.reboot(2)
		r.allocate(bob)
		r.allocate(carol)
		r.reboot(3)
		r.allocate(alice)
		r.release(carol)
	},
}

// loss is what of the writes before an image reached the disk: the names of the leases and of the index as they were at
// some time, and of every file some earlier content, or a part of it, or zeros. It keeps what it is told to keep.
type loss struct {
	leases, index int // images of names
	data          func(name string, versions [][]byte) []byte
}

// whole loses nothing.
func whole(p int) loss {
	return loss{p, p, func(_ string, v [][]byte) []byte { return v[len(v)-1] }}
}

// always are the losses that are tried before every write, the others before every third one.
var always = map[string]bool{"nothing lost": true, "no data written": true, "last write torn": true}

// losses are the ways in which writes before image p can be lost.
func losses(p int, rnd *rand.Rand) map[string]loss {
	last := func(v [][]byte) []byte { return v[len(v)-1] }
	all := map[string]loss{
		"nothing lost":    whole(p),
		"no data written": {p, p, func(string, [][]byte) []byte { return nil }},
		"zeros":           {p, p, func(_ string, v [][]byte) []byte { return make([]byte, len(last(v))) }},
		"torn in half":    {p, p, func(_ string, v [][]byte) []byte { return last(v)[:len(last(v))/2] }},
		"last write torn": {p, p, func(_ string, v [][]byte) []byte { return torture(v, rnd) }},
		"index lost":      {p, 0, func(_ string, v [][]byte) []byte { return last(v) }},
		"leases lost":     {0, p, func(_ string, v [][]byte) []byte { return last(v) }},
	}
	for i := range 2 {
		all[fmt.Sprint("random ", i)] = loss{rnd.IntN(p + 1), rnd.IntN(p + 1), func(_ string, v [][]byte) []byte {
			switch rnd.IntN(4) {
			case 0:
				return torture(v, rnd)
			case 1:
				return nil
			}
			return v[rnd.IntN(len(v))]
		}}
	}
	return all
}

// torture is the last version up to a random byte, and the one before it, if there is one, from there on.
func torture(v [][]byte, rnd *rand.Rand) []byte {
	last := v[len(v)-1]
	at := rnd.IntN(len(last) + 1)
	out := slices.Clone(last[:at])
	if len(v) > 1 && len(v[len(v)-2]) > at {
		out = append(out, v[len(v)-2][at:]...)
	}
	return out
}

// restore makes a directory as it is after a loss at image p.
func (r *recorder) restore(t *testing.T, p int, l loss) Dir {
	t.Helper()
	d := Dir{DataDir: filepath.Join(r.keep, "..", "after"), Network: r.dir.Network, BootID: r.images[p].boot}
	require.NoError(t, os.RemoveAll(d.DataDir))
	require.NoError(t, os.Mkdir(d.DataDir, 0o700))
	times := map[string]unix.Timespec{}
	for _, part := range []struct {
		at    int
		index bool
	}{{l.leases, false}, {l.index, true}} {
		of := r.images[part.at]
		for _, name := range slices.Sorted(maps.Keys(of.dirs)) {
			if strings.HasPrefix(name, mark.Index) == part.index && name != "." {
				require.NoError(t, os.MkdirAll(filepath.Join(d.DataDir, name), 0o700))
				times[name] = of.dirs[name]
			}
		}
		for name, c := range of.files {
			if strings.HasPrefix(name, mark.Index) == part.index {
				r.put(t, filepath.Join(d.DataDir, name), c, l.data(name, r.versions(p, name, c)))
			}
		}
	}
	for name, at := range times {
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(d.DataDir, name), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, at}, 0))
	}
	return d
}

// put brings back a lease file itself if its content is what it was.
func (r *recorder) put(t *testing.T, path string, was content, b []byte) {
	t.Helper()
	if _, ok := parseName(filepath.Base(path)); ok && bytes.Equal(b, was.bytes) {
		require.NoError(t, os.Link(r.kept(was.id), path))
		return
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// versions are the contents that a file had until image p, by its inode. The first is that of a file never written.
func (r *recorder) versions(p int, name string, c content) [][]byte {
	all := [][]byte{nil}
	for _, im := range r.images[:p+1] {
		if was, ok := im.files[name]; ok && was.id.ino == c.id.ino && !bytes.Equal(was.bytes, all[len(all)-1]) {
			all = append(all, was.bytes)
		}
	}
	if len(all) == 1 && len(c.bytes) > 0 {
		all = append(all, c.bytes)
	}
	return all
}

func TestAPowerLossAtAnyWriteGivesNoAddressTwiceAndLosesNone(t *testing.T) {
	t.Parallel()
	for name, work := range workloads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, work)
			require.Greater(t, len(r.images), 40)
			rnd := rand.New(rand.NewPCG(1, 2))
			tried, late := 0, 0
			for p := range r.images {
				all := losses(p, rnd)
				for i, how := range slices.Sorted(maps.Keys(all)) {
					if !always[how] && (p+i)%3 != 0 {
						continue
					}
					l := all[how]
					tried++
					waiting := afterPowerLoss(t, r.restore(t, p, l).reboot(8))
					late = max(late, waiting)
					if waiting == 0 {
						continue
					}
					d := r.restore(t, p, l)
					for boot := 8; boot < 10; boot++ {
						_, err := Allocator{d.reboot(boot), crashPools}.Available(t.Context())
						require.NoError(t, err, "%s before write %d", how, p)
					}
					free, err := Allocator{d.reboot(10), crashPools}.Available(t.Context())
					require.NoError(t, err)
					require.Equal(t, []int{6, 6}, free, "%s before write %d: an address is lost for good", how, p)
				}
			}
			t.Logf("%d writes, %d power losses: at most %d of 12 addresses had to wait for GC or another reboot", len(r.images)-1, tried, late)
		})
	}
}

// afterPowerLoss fills the pools in the next boot, and returns how many addresses became free only by GC.
func afterPowerLoss(t *testing.T, d Dir) (waiting int) {
	t.Helper()
	a := Allocator{d, crashPools}
	given := map[string]Owner{}
	fill := func(generation string) {
		for i := 0; ; i++ {
			o := Owner{fmt.Sprint(generation, i), "eth0"}
			leases, err := a.Allocate(t.Context(), o)
			if errors.Is(err, ErrExhausted) {
				return
			}
			require.NoError(t, err)
			for _, l := range leases {
				at := l.Addr.Addr().String()
				require.NotContains(t, given, at, "given twice, to %s and to %s", given[at], o)
				given[at] = o
			}
		}
	}
	fill("new")
	waiting = 12 - len(given)
	require.NoError(t, a.Retain(t.Context(), maps.Values(given)))
	fill("after-gc")
	require.Len(t, given, 12, "an address is lost")
	for at, o := range given {
		require.NoError(t, a.Check(t.Context(), o, addr(at)))
	}
	require.True(t, audit(t, d))
	return waiting
}

func TestWhatWasGivenBeforeAKillStaysGivenInTheSameBoot(t *testing.T) {
	t.Parallel()
	for name, work := range workloads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, work)
			for p, im := range r.images {
				a := Allocator{r.restore(t, p, whole(p)), crashPools}
				taken := map[string]bool{}
				for o, held := range im.held {
					require.NoError(t, a.Check(t.Context(), o, addrs(held...)...), "before write %d", p)
					for _, at := range held {
						taken[at] = true
					}
				}
				for i := 0; ; i++ {
					leases, err := a.Allocate(context.Background(), Owner{fmt.Sprint("other", i), "eth0"})
					if errors.Is(err, ErrExhausted) {
						break
					}
					require.NoError(t, err)
					for _, l := range leases {
						require.NotContains(t, taken, l.Addr.Addr().String(), "before write %d", p)
					}
				}
				require.NoError(t, a.Retain(t.Context(), maps.Keys(im.held)))
				free, err := a.Available(t.Context())
				require.NoError(t, err)
				require.Equal(t, []int{6 - len(im.held), 6 - len(im.held)}, free, "before write %d", p)
			}
		})
	}
}
