//go:build linux

package ipam

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestALeaseOfAnEarlierBootIsGivenAwayOnlyWhenNothingElseIsFree(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/29")}}
	for i := range 3 {
		allocate(t, a, Owner{fmt.Sprint("old", i), "eth0"}) // .2 to .4
	}
	a.Dir = a.reboot(2)
	free, err := a.Available(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{5}, free, "what can be reclaimed counts as free")
	var got []string
	for i := range 5 {
		got = append(got, allocate(t, a, Owner{fmt.Sprint("new", i), "eth0"})...)
		free, err := a.Available(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{4 - i}, free)
		require.True(t, audit(t, a.Dir))
	}
	require.Equal(t, []string{"10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.4"}, got)
	_, err = a.Allocate(t.Context(), alice)
	require.ErrorIs(t, err, ErrExhausted)
}

func TestALeaseOfAnEarlierBootIsGivenToWhoAsksForTheAddress(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	allocate(t, a, alice)
	a.Dir = a.reboot(2)
	err := a.Check(t.Context(), alice, addr("10.1.0.2"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "earlier boot")
	require.Equal(t, []string{"10.1.0.2", "fd00::3"}, allocate(t, a, bob, "10.1.0.2"))
	held, err := a.Leases(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Held{{addr("10.1.0.2"), bob, false}, {addr("fd00::2"), alice, true}, {addr("fd00::3"), bob, false}}, held)
	require.True(t, audit(t, a.Dir))
	require.Equal(t, []string{"10.1.0.3", "fd00::2"}, allocate(t, a, alice), "alice has what is left of hers")
}

func TestTheSameOwnerOfAnEarlierBootGetsTheSameAddressAgain(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	allocate(t, a, bob)
	want := allocate(t, a, alice)
	for n := 2; n < 5; n++ {
		a.Dir = a.reboot(n)
		require.Equal(t, want, allocate(t, a, alice))
		require.True(t, audit(t, a.Dir))
		_, err := a.Allocate(t.Context(), alice)
		require.ErrorIs(t, err, ErrHeld)
		_, err = a.Allocate(t.Context(), carol, addr(want[0]))
		require.ErrorIs(t, err, ErrTaken)
	}
	a.Dir = a.reboot(5)
	require.Equal(t, []string{"10.1.0.77", want[1]}, allocate(t, a, alice, "10.1.0.77"), "unless it wants another")
	require.NotContains(t, files(t, a.Dir), want[0])
	a.Dir, a.Pools = a.reboot(6), []Pool{pool("10.7.0.0/24")}
	require.Equal(t, []string{"10.7.0.2"}, allocate(t, a, alice), "or its range is gone")
	require.Equal(t, map[string]string{"10.1.0.2": "bob\r\neth0", "fd00::2": "bob\r\neth0", "10.7.0.2": "alice\r\neth0"}, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestALeaseThatTheIndexDoesNotKnowLivesUntilTheNextBoot(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(d Dir){
		"made by the reference or by hand": func(d Dir) { write(t, d, "10.1.0.2", "alice\r\neth0") },
		"one line":                         func(d Dir) { write(t, d, "10.1.0.2", "alice") },
		"index deleted": func(d Dir) {
			allocate(t, Allocator{d, []Pool{pool("10.1.0.0/24")}}, alice)
			require.NoError(t, os.RemoveAll(filepath.Join(d.DataDir, ".cniblocks")))
		},
		"another file of that name": func(d Dir) {
			allocate(t, Allocator{d, []Pool{pool("10.1.0.0/24")}}, alice)
			path := filepath.Join(d.leaseDir(), "10.1.0.2")
			require.NoError(t, os.WriteFile(path+".new", []byte("alice\r\neth0"), 0o600))
			require.NoError(t, os.Rename(path+".new", path))
		},
		"the same file, written again": func(d Dir) {
			allocate(t, Allocator{d, []Pool{pool("10.1.0.0/24")}}, alice)
			write(t, d, "10.1.0.2", "alice\r\neth0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			forget(d)
			// Much older than any uptime: times are never compared with it.
			old := time.Now().Add(-10000 * time.Hour)
			if name != "index deleted" {
				require.NoError(t, os.Chtimes(filepath.Join(d.leaseDir(), "10.1.0.2"), old, old))
			}
			a := Allocator{d.reboot(2), []Pool{pool("10.1.0.2/32")}}
			_, err := a.Allocate(t.Context(), bob)
			require.ErrorIs(t, err, ErrExhausted)
			_, err = a.Allocate(t.Context(), bob, addr("10.1.0.2"))
			require.ErrorIs(t, err, ErrTaken)
			_, err = a.Allocate(t.Context(), alice)
			require.ErrorIs(t, err, ErrHeld)
			require.NoError(t, a.Check(t.Context(), alice, addr("10.1.0.2")))
			a.Dir = d.reboot(3)
			require.Equal(t, []string{"10.1.0.2"}, allocate(t, a, bob))
			require.True(t, audit(t, a.Dir))
		})
	}
}

func TestEmptyAndTornLeaseFilesCostNoAddress(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "\x00\x00\x00\x00\x00", " \r\n ", "ab\xff\xfe", "ali\x00ce\r\neth0", string(slices.Repeat([]byte("x"), 5000))} {
		a := Allocator{newDir(t), []Pool{pool("10.1.0.0/30"), pool("fd00::5/128")}}
		write(t, a.Dir, "10.1.0.2", content)
		write(t, a.Dir, "fd00::5", content)
		free, err := a.Available(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{1, 1}, free)
		_, err = a.Holder(addr("10.1.0.2"))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Equal(t, []string{"10.1.0.2", "fd00::5"}, allocate(t, a, alice))
		require.True(t, audit(t, a.Dir))
	}
}

func TestOneLineLeasesBelongToTheWholeContainer(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	write(t, a.Dir, "10.1.0.9", "alice")
	require.NoError(t, a.Check(t.Context(), alice, addr("10.1.0.9")))
	require.NoError(t, a.Check(t.Context(), alice))
	_, err := a.Allocate(t.Context(), alice)
	require.ErrorIs(t, err, ErrHeld)

	write(t, a.Dir, "10.1.0.10", "alice\r\neth0")
	require.NoError(t, a.Release(t.Context(), alice))
	require.Equal(t, map[string]string{"10.1.0.9": "alice"}, files(t, a.Dir), "an exact match goes first")
	require.NoError(t, a.Release(t.Context(), Owner{"alice", "eth7"}))
	require.Empty(t, files(t, a.Dir))
}
