//go:build linux

package ipam

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAllocateGivesOneAddressOfEveryPool(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64"), {rng("10.9.0.0/24", "", "", "169.254.1.1")}}}
	got, err := a.Allocate(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, []Lease{
		{netip.MustParsePrefix("10.1.0.2/24"), addr("10.1.0.1"), 0},
		{netip.MustParsePrefix("fd00::2/64"), addr("fd00::1"), 1},
		{netip.MustParsePrefix("10.9.0.1/24"), addr("169.254.1.1"), 2},
	}, got)
	require.Equal(t, map[string]string{"10.1.0.2": "alice\r\neth0", "fd00::2": "alice\r\neth0", "10.9.0.1": "alice\r\neth0"}, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestAllocateGoesRoundRobin(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/29")}}
	var got []string
	for i := range 12 {
		o := Owner{fmt.Sprint("c", i), "eth0"}
		got = append(got, allocate(t, a, o)...)
		require.NoError(t, a.Release(t.Context(), o))
	}
	require.Equal(t, []string{"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6",
		"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3"}, got)
}

func TestEveryAddressOfASmallPoolIsHandedOutAndNeverTheGateway(t *testing.T) {
	t.Parallel()
	for want, p := range map[*[]string]Pool{
		{"10.1.0.2"}:                          pool("10.1.0.0/30"),
		{"10.1.0.2", "10.1.0.3"}:              pool("10.1.0.2/31"),
		{"10.1.0.7"}:                          pool("10.1.0.7/32"),
		{"fd00::2", "fd00::3"}:                pool("fd00::/126"),
		{"fd00::", "fd00::1"}:                 pool("fd00::/127"),
		{"fd00::5"}:                           pool("fd00::5/128"),
		{"10.1.0.3"}:                          {rng("10.1.0.2/31", "", "", "10.1.0.2")},
		{"10.1.0.9", "10.2.0.1", "10.2.0.2"}:  {rng("10.1.0.9/32", "", "", ""), rng("10.2.0.0/30", "", "", "10.2.0.9")},
		{"10.1.0.1", "10.1.0.3", "10.1.0.12"}: {rng("10.1.0.0/24", "10.1.0.1", "10.1.0.3", "10.1.0.2"), rng("10.1.0.0/24", "10.1.0.11", "10.1.0.12", "10.1.0.11")},
		{"10.1.0.4", "10.1.0.6"}:              {rng("10.1.0.0/24", "10.1.0.4", "10.1.0.4", ""), rng("10.1.0.0/24", "10.1.0.5", "10.1.0.6", "10.1.0.5")},
	} {
		a := Allocator{newDir(t), []Pool{p}}
		free, err := a.Available(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{len(*want)}, free)
		var got []string
		for i := range *want {
			got = append(got, allocate(t, a, Owner{fmt.Sprint("c", i), "eth0"})...)
		}
		require.Equal(t, *want, got)
		_, err = a.Allocate(t.Context(), alice)
		require.ErrorIs(t, err, ErrExhausted)
		free, err = a.Available(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{0}, free)
	}
}

func TestAnExhaustedPoolSaysItsRangesItsSizeAndWhatToDo(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("fd00::/64"), pool("10.1.0.0/29")}}
	for i := range 5 {
		allocate(t, a, Owner{fmt.Sprint("c", i), "eth0"})
	}
	before := files(t, a.Dir)
	_, err := a.Allocate(t.Context(), alice)
	require.ErrorIs(t, err, ErrExhausted)
	require.ErrorContains(t, err, `lease for container "alice", interface "eth0" in network blue: no address left in range set 1 (10.1.0.1-10.1.0.6), all 5 are in use: release`)
	require.Equal(t, before, files(t, a.Dir), "nothing of the first pool is left")
	require.True(t, audit(t, a.Dir))
	require.NoError(t, a.Release(t.Context(), Owner{"c3", "eth0"}))
	require.Equal(t, "10.1.0.5", allocate(t, a, alice)[1])
}

func TestADuplicateAllocateFailsAndLeavesTheFirstLease(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	got := allocate(t, a, alice)
	before := files(t, a.Dir)
	for _, wanted := range [][]netip.Addr{nil, addrs("10.1.0.9"), addrs(got...)} {
		_, err := a.Allocate(t.Context(), alice, wanted...)
		require.ErrorIs(t, err, ErrHeld)
		require.ErrorContains(t, err, "10.1.0.2: release it first")
	}
	require.Equal(t, before, files(t, a.Dir))
	require.NoError(t, a.Check(t.Context(), alice, addrs(got...)...))
	require.True(t, audit(t, a.Dir))
	allocate(t, a, Owner{"alice", "eth1"})
}

func TestAWantedAddressIsGivenByItsPool(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64"), pool("10.2.0.0/24")}}
	require.Equal(t, []string{"10.1.0.2", "fd00::77", "10.2.0.9"}, allocate(t, a, alice, "10.2.0.9", "fd00::77", "::ffff:10.2.0.9"))
	require.Equal(t, []string{"10.1.0.3", "fd00::78", "10.2.0.10"}, allocate(t, a, bob))
}

func TestAWantedAddressThatIsTakenSaysWhoHoldsIt(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	allocate(t, a, alice, "10.1.0.9")
	_, err := a.Allocate(t.Context(), bob, addr("10.1.0.9"))
	require.ErrorIs(t, err, ErrTaken)
	require.ErrorContains(t, err, `10.1.0.9: address is taken by container "alice", interface "eth0"`)
	o, err := a.Holder(addr("10.1.0.9"))
	require.NoError(t, err)
	require.Equal(t, alice, o)
	_, err = a.Holder(addr("10.1.0.10"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAWantedAddressThatNoPoolGivesSaysWhy(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	for why, wanted := range map[string][]netip.Addr{
		"10.3.0.9: address is not offered: it is in no range of this network (10.1.0.1-10.1.0.254; fd00::1-fd00::ffff:": addrs("10.3.0.9"),
		"10.1.0.1: address is not offered: it is the gateway":                                                           addrs("10.1.0.1"),
		"10.1.0.255: address is not offered: it is in no range":                                                         addrs("10.1.0.255"),
		"10.1.0.8: address is not offered: range set 0 (10.1.0.1-10.1.0.254) gives one address and 10.1.0.7 is asked":   addrs("10.1.0.7", "10.1.0.8"),
	} {
		_, err := a.Allocate(t.Context(), alice, wanted...)
		require.ErrorIs(t, err, ErrNotOffered)
		require.ErrorContains(t, err, why)
	}
	require.NoDirExists(t, a.leaseDir(), "nothing was changed before everything was checked")
}

func TestWhatIsWrongWithTheInputIsFoundBeforeAnythingChanges(t *testing.T) {
	t.Parallel()
	for _, o := range []Owner{{}, {"a b", "eth0"}, {"a\x00", "eth0"}, {"a\r\nb", "eth0"}, {" a", "eth0"}, {"a", ""}, {"a", "eth/0"},
		{"a", "0123456789abcdef"}, {"a", ".."}, {"a", "e\nth"}, {string(make([]byte, 300)), "eth0"},
		{"a/../b", "eth0"}, {"/", "eth0"}} {
		a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
		_, err := a.Allocate(t.Context(), o)
		require.Error(t, err, "%q", o)
		require.NoError(t, a.Release(t.Context(), o))
		require.NoDirExists(t, a.leaseDir())
	}
	for _, n := range []string{"", ".", "..", "../x", "a/b", ".cniblocks", "a\x00", "-a", "é"} {
		a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
		a.Network = n
		_, err := a.Allocate(t.Context(), alice)
		require.ErrorContains(t, err, "network name")
		require.ErrorContains(t, a.Release(t.Context(), alice), "network name")
		_, err = a.Holder(addr("10.1.0.1"))
		require.ErrorContains(t, err, "network name")
		require.ErrorContains(t, a.Retain(t.Context(), slices.Values([]Owner{})), "network name")
	}
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("10.1.0.0/25")}}
	_, err := a.Allocate(t.Context(), alice)
	require.ErrorContains(t, err, "overlap")
	_, err = a.Available(t.Context())
	require.ErrorContains(t, err, "overlap")
	for _, none := range [][]Pool{nil, {}} {
		a := Allocator{newDir(t), none}
		_, err := a.Allocate(t.Context(), alice)
		require.ErrorContains(t, err, "network blue has no pool to lease an address from")
		_, err = a.Available(t.Context())
		require.ErrorContains(t, err, "network blue has no pool to lease an address from")
		require.NoDirExists(t, a.leaseDir())
	}
	a.BootID = "../x"
	require.ErrorContains(t, a.Release(t.Context(), alice), "boot ID")
}

func TestALeaseThatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	check := func(says string, err error) {
		t.Helper()
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.EqualError(t, err, says)
	}
	who := `addresses of container "bob", interface "eth0" in network blue: `
	check(who+"no address is leased in this network", a.Check(t.Context(), bob))
	_, err := a.Holder(addr("10.1.0.9"))
	check("10.1.0.9 is leased to nobody", err)
	_, err = a.Allocate(t.Context(), alice)
	require.NoError(t, err)
	check(who+"no address is leased to it", a.Check(t.Context(), bob))
	check(who+"10.1.0.9 is leased to nobody", a.Check(t.Context(), bob, addr("10.1.0.9")))
	_, err = a.Holder(addr("10.1.0.9"))
	check("10.1.0.9 is leased to nobody", err)
	a.Dir = a.reboot(2)
	check(`addresses of container "alice", interface "eth0" in network blue: 10.1.0.2 is a lease of an earlier boot`,
		a.Check(t.Context(), alice, addr("10.1.0.2")))
}

func TestRetainWithoutASequenceKeepsAll(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	_, err := a.Allocate(t.Context(), alice)
	require.NoError(t, err)
	require.ErrorContains(t, a.Retain(t.Context(), nil), "which owners to keep")
	require.NoError(t, a.Check(t.Context(), alice))
}

func TestWithoutABootIDItIsTheKernels(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.BootID = ""
	allocate(t, Allocator{d, []Pool{pool("10.1.0.0/24")}}, alice)
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(d.DataDir, ".cniblocks", "blue", string(id[:36]), tableName))
}

func TestReleaseOfNothingCreatesNothing(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	require.NoError(t, d.Release(t.Context(), alice))
	require.NoError(t, d.Retain(t.Context(), slices.Values([]Owner{})))
	leases, err := d.Leases(t.Context())
	require.NoError(t, err)
	require.Empty(t, leases)
	require.ErrorIs(t, d.Check(t.Context(), alice), fs.ErrNotExist)
	free, err := Allocator{d, []Pool{pool("10.1.0.0/24"), pool("fd00::/64"), pool("10.2.0.0/15")}}.Available(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{253, MaxAvailable, 1<<17 - 3}, free)
	entries, err := os.ReadDir(d.DataDir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestReleaseLeavesTheOtherInterfaceOfTheContainer(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	allocate(t, a, alice)
	allocate(t, a, Owner{"alice", "eth1"})
	require.NoError(t, a.Release(t.Context(), alice))
	require.NoError(t, a.Release(t.Context(), alice), "twice")
	require.Equal(t, map[string]string{"10.1.0.3": "alice\r\neth1"}, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestCheckSaysWhoHoldsTheAddress(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	allocate(t, a, alice)
	allocate(t, a, bob)
	require.NoError(t, a.Check(t.Context(), alice, addr("::ffff:10.1.0.2")))
	err := a.Check(t.Context(), alice, addr("10.1.0.2"), addr("10.1.0.3"), addr("10.1.0.4"))
	require.ErrorIs(t, err, ErrTaken)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, `10.1.0.3: address is taken by container "bob", interface "eth0"`)
	require.ErrorContains(t, err, "10.1.0.4 is leased to nobody")
	require.ErrorIs(t, a.Check(t.Context(), carol), fs.ErrNotExist)
}

func TestRetainRemovesExactlyWhatIsNotKept(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	for i := range 30 {
		allocate(t, a, Owner{fmt.Sprint("c", i), "eth0"})
	}
	write(t, a.Dir, "10.1.0.200", "c1")
	write(t, a.Dir, "10.1.0.201", "other")
	write(t, a.Dir, "10.1.0.202", "")
	var keep []Owner
	for i := range 10 {
		keep = append(keep, Owner{fmt.Sprint("c", i), "eth0"})
	}
	require.NoError(t, a.Retain(t.Context(), slices.Values(keep)))
	require.True(t, audit(t, a.Dir))
	held, err := a.Leases(t.Context())
	require.NoError(t, err)
	want := []Held{}
	for i := range 10 {
		want = append(want, Held{addr(fmt.Sprintf("10.1.0.%d", i+2)), keep[i], false})
	}
	want = append(want, Held{addr("10.1.0.200"), Owner{ContainerID: "c1"}, false})
	for i := range 10 {
		want = append(want, Held{addr(fmt.Sprintf("fd00::%x", i+2)), keep[i], false})
	}
	require.Equal(t, want, held)
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24")}}
	allocate(t, a, alice)
	unlock := flock(t, filepath.Join(a.leaseDir(), "lock"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := a.Allocate(ctx, bob)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "blue/lock")
	require.ErrorIs(t, a.Release(ctx, alice), context.DeadlineExceeded)
	done := make(chan error)
	go func() { done <- a.Release(t.Context(), alice) }()
	unlock()
	require.NoError(t, <-done)
}

func TestManyAtOnceNeverShareAnAddress(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/25"), pool("fd00::/64")}}
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			leases, err := a.Allocate(t.Context(), Owner{fmt.Sprint("c", i), "eth0"})
			mu.Lock()
			defer mu.Unlock()
			require.NoError(t, err)
			for _, l := range leases {
				seen[l.Addr.String()]++
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 128)
	require.Len(t, files(t, a.Dir), 128)
	require.True(t, audit(t, a.Dir))
	for i := range 64 {
		wg.Go(func() { require.NoError(t, a.Release(t.Context(), Owner{fmt.Sprint("c", i), "eth0"})) })
	}
	wg.Wait()
	require.Empty(t, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestAnOwnerMayHoldMoreAddressesThanAreUsual(t *testing.T) {
	t.Parallel()
	a := Allocator{Dir: newDir(t)}
	for i := range 60 {
		a.Pools = append(a.Pools, pool(fmt.Sprintf("10.%d.0.0/24", i)))
	}
	allocate(t, a, bob)
	require.Len(t, allocate(t, a, alice), 60)
	require.NoError(t, a.Release(t.Context(), alice))
	require.Len(t, files(t, a.Dir), 60)
	require.NoError(t, a.Check(t.Context(), bob))
}
