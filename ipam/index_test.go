//go:build linux

package ipam

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReleaseOfNothingReadsNoLeaseFileThoughThereAreThousands(t *testing.T) {
	t.Parallel()
	d := memDir(t)
	fillDir(t, d, slash16, 5000)
	require.NoError(t, d.Release(t.Context(), alice))
	d.hooks = &hooks{}
	require.NoError(t, d.Release(t.Context(), alice))
	require.NoError(t, d.Release(t.Context(), Owner{"carol", "eth3"}))
	require.ErrorIs(t, d.Check(t.Context(), alice), fs.ErrNotExist)
	_, err := Allocator{d, []Pool{slash16}}.Available(t.Context())
	require.NoError(t, err)
	require.Zero(t, d.hooks.reads)
}

func TestTheLastFreeAddressOfASlash16IsFoundWithoutTryingTheOthers(t *testing.T) {
	t.Parallel()
	a := Allocator{memDir(t), []Pool{slash16}}
	fillDir(t, a.Dir, slash16, 65533)
	free, err := a.Available(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{0}, free)
	require.NoError(t, a.Release(t.Context(), Owner{fmt.Sprintf("%064x", 4242), "eth0"}))
	a.hooks = &hooks{}
	got, err := a.Allocate(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, "10.22.16.148/16", got[0].Addr.String())
	require.Zero(t, a.hooks.reads)
	require.NoError(t, a.Release(t.Context(), alice))
	require.Equal(t, 1, a.hooks.reads)
}

func TestTheIndexMayBeDeletedAtAnyTime(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/22")}}
	stop := make(chan struct{})
	var wg, vandal sync.WaitGroup
	vandal.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.RemoveAll(filepath.Join(a.DataDir, ".cniblocks"))
			}
		}
	})
	for i := range 8 {
		wg.Go(func() {
			for j := range 40 {
				o := Owner{fmt.Sprint("c", i, "-", j), "eth0"}
				if _, err := a.Allocate(t.Context(), o); err != nil {
					require.ErrorIs(t, err, errGone) // five deletions in a row
				}
				if j%2 == 0 {
					for a.Release(t.Context(), o) != nil {
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	vandal.Wait()
	for name, content := range files(t, a.Dir) {
		o, ok := parseOwner([]byte(content))
		require.True(t, ok, "%s: %q", name, content)
		require.NoError(t, a.Release(t.Context(), o))
	}
	require.Empty(t, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestWhatSomebodyElseChangesIsSeen(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/29")}}
	allocate(t, a, alice)
	require.True(t, audit(t, a.Dir))

	write(t, a.Dir, "10.1.0.4", "bob\r\neth0")
	require.False(t, audit(t, a.Dir))
	require.NoError(t, a.Release(t.Context(), bob))
	require.Equal(t, map[string]string{"10.1.0.2": "alice\r\neth0"}, files(t, a.Dir))

	remove(t, a.Dir, "10.1.0.2")
	require.ErrorIs(t, a.Check(t.Context(), alice), fs.ErrNotExist)
	require.Equal(t, []string{"10.1.0.3"}, allocate(t, a, alice))
	require.True(t, audit(t, a.Dir))
}

func TestAHitInTheIndexIsNotBelievedUnlessTheLeaseFileAgrees(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	allocate(t, a, alice)
	// Written in place, which does not show in the directory's time.
	write(t, a.Dir, "10.1.0.2", "bob\r\neth0")
	require.True(t, func() (in bool) { inspect(t, a.Dir, func(s *session) { in = s.inStep() }); return }())
	require.ErrorIs(t, a.Check(t.Context(), alice, addr("10.1.0.2")), ErrTaken)
	require.ErrorIs(t, a.Check(t.Context(), alice), fs.ErrNotExist)
	require.NoError(t, a.Release(t.Context(), alice))
	require.Equal(t, map[string]string{"10.1.0.2": "bob\r\neth0"}, files(t, a.Dir))
	a.Dir = a.reboot(2)
	_, err := a.Allocate(t.Context(), carol, addr("10.1.0.2"))
	require.ErrorIs(t, err, ErrTaken, "a lease of that boot, as far as anybody knows")
}

func TestABitThatLiesHealsItself(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/29")}}
	allocate(t, a, bob)
	allocate(t, a, carol)
	tamper(t, a.Dir, func(s *session) { require.NoError(t, s.mark(addr("10.1.0.4"), true, false)) })
	require.Equal(t, []string{"10.1.0.5"}, allocate(t, a, alice), "used, it says")
	require.NoError(t, a.Release(t.Context(), alice))
	tamper(t, a.Dir, func(s *session) {
		for _, free := range addrs("10.1.0.5", "10.1.0.6") {
			require.NoError(t, s.mark(free, true, false))
		}
	})
	require.Equal(t, []string{"10.1.0.6"}, allocate(t, a, alice), "the directory is read before giving up")
	require.True(t, audit(t, a.Dir))

	require.NoError(t, a.Release(t.Context(), alice))
	remove(t, a.Dir, "last_reserved_ip.0")
	_, err := a.Available(t.Context())
	require.NoError(t, err)
	tamper(t, a.Dir, func(s *session) { require.NoError(t, s.mark(addr("10.1.0.2"), false, false)) })
	require.Equal(t, []string{"10.1.0.4"}, allocate(t, a, alice), "free, it says")
	require.True(t, audit(t, a.Dir))

	tamper(t, a.Dir, func(s *session) {
		for _, held := range addrs("10.1.0.2", "10.1.0.3", "10.1.0.4") {
			require.NoError(t, s.mark(held, true, true))
		}
		require.NoError(t, s.mark(addr("10.1.0.5"), true, true))
		require.NoError(t, s.mark(addr("10.1.0.6"), true, true))
	})
	require.Equal(t, []string{"10.1.0.5"}, allocate(t, a, Owner{"dora", "eth0"}), "of an earlier boot, it says")
	require.True(t, audit(t, a.Dir))
}

func TestADamagedIndexHealsItself(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string){
		"table gone":  func(p string) { require.NoError(t, os.Remove(filepath.Join(p, tableName))) },
		"table empty": func(p string) { require.NoError(t, os.Truncate(filepath.Join(p, tableName), 0)) },
		"table cut":   func(p string) { require.NoError(t, os.Truncate(filepath.Join(p, tableName), slotSize+7)) },
		"table garbage": func(p string) {
			require.NoError(t, os.WriteFile(filepath.Join(p, tableName), make([]byte, 999), 0o600))
		},
		"table a directory":  func(p string) { replaceByDir(t, filepath.Join(p, tableName)) },
		"block a directory":  func(p string) { replaceByDir(t, filepath.Join(p, "block.10.1.0.0")) },
		"block a link":       func(p string) { replaceByLink(t, filepath.Join(p, "block.10.1.0.0")) },
		"table a link":       func(p string) { replaceByLink(t, filepath.Join(p, tableName)) },
		"index a file":       func(p string) { require.NoError(t, os.RemoveAll(p)); require.NoError(t, os.WriteFile(p, nil, 0o600)) },
		"surplus files":      func(p string) { require.NoError(t, os.MkdirAll(filepath.Join(p, "x/y"), 0o700)) },
		"surplus indexes":    func(p string) { require.NoError(t, os.MkdirAll(filepath.Join(p, "../other/y"), 0o700)) },
		"left by a crash":    func(p string) { require.NoError(t, os.WriteFile(filepath.Join(p, tmpPrefix+tableName), nil, 0o600)) },
		"nothing but a name": func(p string) { require.NoError(t, os.RemoveAll(filepath.Dir(p))) },
	} {
		t.Run(name, func(t *testing.T) {
			a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
			got := allocate(t, a, alice)
			damage(filepath.Join(a.DataDir, ".cniblocks", "blue", a.BootID))
			require.NoError(t, a.Release(t.Context(), carol))
			require.NoError(t, a.Check(t.Context(), alice, addrs(got...)...))
			allocate(t, a, bob)
			require.NoError(t, a.Release(t.Context(), alice))
			require.Equal(t, map[string]string{"10.1.0.3": "bob\r\neth0"}, files(t, a.Dir))
			require.True(t, audit(t, a.Dir))
			require.NoError(t, a.Retain(t.Context(), slices.Values([]Owner{})))
			require.True(t, audit(t, a.Dir))
		})
	}
}

func replaceByDir(t *testing.T, path string) {
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
}

func replaceByLink(t *testing.T, path string) {
	require.NoError(t, os.Remove(path))
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	require.NoError(t, os.Symlink(victim, path))
	t.Cleanup(func() {
		b, err := os.ReadFile(victim)
		require.NoError(t, err)
		require.Equal(t, "precious", string(b))
	})
}

func TestOnAFileSystemWithoutNanosecondsNothingIsBelieved(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	a.hooks = &hooks{coarse: true}
	allocate(t, a, alice)
	require.False(t, audit(t, a.Dir))
	write(t, a.Dir, "10.1.0.9", "bob\r\neth0")
	require.NoError(t, a.Release(t.Context(), bob))
	require.NoError(t, a.Release(t.Context(), alice))
	require.Empty(t, files(t, a.Dir))
	require.False(t, audit(t, a.Dir))
}

func TestWithoutNamelessFilesLeasesStillAppearWhole(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	a.hooks = &hooks{oldKernel: true}
	allocate(t, a, alice)
	_, err := a.Allocate(t.Context(), bob, addr("10.1.0.2"))
	require.ErrorIs(t, err, ErrTaken)
	require.Equal(t, map[string]string{"10.1.0.2": "alice\r\neth0", "fd00::2": "alice\r\neth0"}, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
	require.NoError(t, a.Release(t.Context(), alice))
	require.Empty(t, files(t, a.Dir))
}

func TestPlantedLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/29")}}
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("alice\r\neth0"), 0o600))
	require.NoError(t, os.Mkdir(a.leaseDir(), 0o755))
	for _, name := range []string{"10.1.0.2", "last_reserved_ip.0"} {
		require.NoError(t, os.Symlink(victim, filepath.Join(a.leaseDir(), name)))
	}
	require.NoError(t, os.Mkdir(filepath.Join(a.leaseDir(), "10.1.0.3"), 0o755))

	require.NoError(t, a.Release(t.Context(), alice))
	require.Equal(t, []string{"10.1.0.4"}, allocate(t, a, alice))
	_, err := a.Allocate(t.Context(), bob, addr("10.1.0.2"))
	require.ErrorIs(t, err, ErrTaken)
	require.ErrorContains(t, err, "a file that is no lease has its name, remove it")
	require.NoError(t, a.Retain(t.Context(), slices.Values([]Owner{})))
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "alice\r\neth0", string(b))

	for _, name := range []string{"blue", ".cniblocks", "blue/lock"} {
		d := newDir(t)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(d.DataDir, name)), 0o755))
		outside := t.TempDir()
		require.NoError(t, os.Symlink(outside, filepath.Join(d.DataDir, name)))
		_, err := Allocator{d, []Pool{pool("10.1.0.0/24")}}.Allocate(t.Context(), alice)
		require.Error(t, err)
		entries, err := os.ReadDir(outside)
		require.NoError(t, err)
		require.Empty(t, entries)
	}
}

func TestAnIndexThatCannotBeUsedKeepsNobodyFromGivingBack(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	for _, o := range []Owner{alice, bob, carol} {
		allocate(t, a, o)
	}
	write(t, a.Dir, "10.1.0.99", "alice")
	index := filepath.Join(a.DataDir, ".cniblocks")
	require.NoError(t, os.RemoveAll(index))
	require.NoError(t, os.WriteFile(index, nil, 0o600))
	_, err := a.Allocate(t.Context(), Owner{"dora", "eth0"})
	require.ErrorContains(t, err, ".cniblocks is not a directory")
	require.NoError(t, a.Release(t.Context(), alice))
	require.Len(t, files(t, a.Dir), 5)
	require.NoError(t, a.Release(t.Context(), alice))
	require.Len(t, files(t, a.Dir), 4, "the one-line lease, when there are no others")
	require.NoError(t, a.Retain(t.Context(), slices.Values([]Owner{carol})))
	require.Equal(t, map[string]string{"10.1.0.4": "carol\r\neth0", "fd00::4": "carol\r\neth0"}, files(t, a.Dir))
	require.NoError(t, os.Remove(index))
	allocate(t, a, alice)
	require.True(t, audit(t, a.Dir))
}

func TestTheTableGrowsWithTheLeases(t *testing.T) {
	t.Parallel()
	a := Allocator{memDir(t), []Pool{slash16}}
	for i := range 3000 {
		_, err := a.Allocate(t.Context(), Owner{fmt.Sprint("c", i), "eth0"})
		require.NoError(t, err)
	}
	require.NoError(t, a.Release(t.Context(), alice))
	require.True(t, audit(t, a.Dir))
	st, err := os.Stat(filepath.Join(a.DataDir, ".cniblocks", "blue", a.BootID, tableName))
	require.NoError(t, err)
	require.Greater(t, st.Size(), int64(2*1024*slotSize))
}

func TestManyLeasesOfOneOwnerKeepTheOthersFast(t *testing.T) {
	t.Parallel()
	d := memDir(t)
	require.NoError(t, os.Mkdir(d.leaseDir(), 0o755))
	for i := range 3000 {
		write(t, d, fmt.Sprintf("10.1.%d.%d", i/250, i%250), "reserved by hand")
	}
	a := Allocator{d, []Pool{pool("10.1.0.0/16")}}
	allocate(t, a, alice)
	require.True(t, audit(t, a.Dir))
	require.NoError(t, a.Release(t.Context(), Owner{ContainerID: "reserved by hand"}))
	require.Len(t, files(t, a.Dir), 1)
	require.True(t, audit(t, a.Dir))
}

// TestALeaseThatIsShortenedInPlaceIsReleased: a file that is written over changes no directory, so the index goes on.
func TestALeaseThatIsShortenedInPlaceIsReleased(t *testing.T) {
	t.Parallel()
	shorten := func(a Allocator, addr string) {
		require.NoError(t, os.WriteFile(filepath.Join(a.leaseDir(), addr), []byte("alice"), 0o600))
	}
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	got := allocate(t, a, alice)
	allocate(t, a, bob)
	for _, addr := range got {
		shorten(a, addr)
	}
	require.NoError(t, a.Check(t.Context(), alice, addrs(got...)...))
	require.NoError(t, a.Check(t.Context(), alice))
	_, err := a.Allocate(t.Context(), alice)
	require.ErrorIs(t, err, ErrHeld)
	require.NoError(t, a.Release(t.Context(), alice))
	require.Len(t, files(t, a.Dir), 2, "bob's")
	require.True(t, audit(t, a.Dir))
	allocate(t, a, alice)

	one := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	got = allocate(t, one, alice)
	shorten(one, got[0])
	require.NoError(t, one.Release(t.Context(), alice))
	require.Equal(t, map[string]string{got[0]: "alice"}, files(t, one.Dir), "one that names the interface is there")
	require.NoError(t, one.Release(t.Context(), alice))
	require.Empty(t, files(t, one.Dir))
}
