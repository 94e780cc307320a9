//go:build linux

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/reference"
)

// theirs is the reference's host-local on the same directory and ranges.
type theirs struct {
	program, config string
}

func asReference(t *testing.T, a Allocator) theirs {
	t.Helper()
	dir, err := reference.Build("host-local")
	require.NoError(t, err)
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": a.Network, "type": "x",
		"ipam": map[string]any{"type": "host-local", "dataDir": a.DataDir, "ranges": a.Pools},
	})
	require.NoError(t, err)
	return theirs{filepath.Join(dir, "host-local"), string(config)}
}

func (r theirs) run(verb string, o Owner, args string) ([]string, error) {
	cmd := exec.Command(r.program)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + o.ContainerID, "CNI_IFNAME=" + o.IfName,
		"CNI_NETNS=/proc/self/ns/net", "CNI_NETNS_OVERRIDE=true", "CNI_PATH=" + filepath.Dir(r.program), "CNI_ARGS=" + args}
	cmd.Stdin = strings.NewReader(r.config)
	out, err := cmd.Output()
	var res struct {
		Msg string
		IPs []struct{ Address string }
	}
	if len(out) > 0 {
		if err := json.Unmarshal(out, &res); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		return nil, errors.Join(err, errors.New(res.Msg))
	}
	var got []string
	for _, ip := range res.IPs {
		got = append(got, ip.Address)
	}
	return got, nil
}

var sharedPools = []Pool{
	{rng("10.1.0.0/29", "", "", ""), rng("10.2.0.0/29", "10.2.0.2", "10.2.0.3", "10.2.0.6")},
	{rng("fd00::/125", "", "", "fd00::3")},
}

func TestAddressesComeInTheOrderOfTheReference(t *testing.T) {
	t.Parallel()
	ours, other := Allocator{newDir(t), sharedPools}, Allocator{newDir(t), sharedPools}
	ref := asReference(t, other)
	for i := range 14 {
		o := Owner{fmt.Sprint("c", i), "eth0"}
		want, err := ref.run("ADD", o, "")
		require.NoError(t, err)
		leases, err := ours.Allocate(t.Context(), o)
		require.NoError(t, err)
		var got []string
		for _, l := range leases {
			got = append(got, l.Addr.String())
		}
		require.Equal(t, want, got)
		require.Equal(t, files(t, other.Dir), files(t, ours.Dir))
		for n := range sharedPools {
			theirs, err := os.ReadFile(filepath.Join(other.leaseDir(), lastName(n)))
			require.NoError(t, err)
			mine, err := os.ReadFile(filepath.Join(ours.leaseDir(), lastName(n)))
			require.NoError(t, err)
			require.Equal(t, string(theirs), string(mine))
		}
		if i >= 3 {
			gone := Owner{fmt.Sprint("c", i-3), "eth0"}
			_, err := ref.run("DEL", gone, "")
			require.NoError(t, err)
			require.NoError(t, ours.Release(t.Context(), gone))
		}
	}
}

func TestWeCarryOnWithTheLeasesOfTheReference(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), sharedPools}
	ref := asReference(t, a)
	_, err := ref.run("ADD", alice, "")
	require.NoError(t, err)
	_, err = ref.run("ADD", bob, "IP=fd00::5")
	require.NoError(t, err)

	require.NoError(t, a.Check(t.Context(), alice, addrs("10.1.0.2", "fd00::1")...))
	require.NoError(t, a.Check(t.Context(), bob, addrs("10.1.0.3", "fd00::5")...))
	_, err = a.Allocate(t.Context(), alice)
	require.ErrorIs(t, err, ErrHeld)
	require.Equal(t, []string{"10.1.0.4", "fd00::6"}, allocate(t, a, carol))
	require.NoError(t, a.Release(t.Context(), alice))
	require.NoError(t, a.Retain(t.Context(), slices.Values([]Owner{carol})))
	require.Equal(t, map[string]string{"10.1.0.4": "carol\r\neth0", "fd00::6": "carol\r\neth0"}, files(t, a.Dir))
	require.True(t, audit(t, a.Dir))
}

func TestTheReferenceCarriesOnWithOurLeases(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), sharedPools}
	ref := asReference(t, a)
	allocate(t, a, alice)
	allocate(t, a, bob, "fd00::5")

	_, err := ref.run("CHECK", alice, "")
	require.NoError(t, err)
	_, err = ref.run("ADD", alice, "")
	require.ErrorContains(t, err, "duplicate allocation is not allowed")
	got, err := ref.run("ADD", carol, "")
	require.NoError(t, err)
	require.Equal(t, []string{"10.1.0.4/29", "fd00::6/125"}, got)
	_, err = ref.run("DEL", alice, "")
	require.NoError(t, err)
	_, err = ref.run("CHECK", alice, "")
	require.Error(t, err)
	_, err = ref.run("DEL", carol, "")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"10.1.0.3": "bob\r\neth0", "fd00::5": "bob\r\neth0"}, files(t, a.Dir))
	require.NoError(t, a.Check(t.Context(), bob))
	require.NoError(t, a.Release(t.Context(), bob))
}

func TestBothAtOnceNeverShareAnAddress(t *testing.T) {
	t.Parallel()
	a := Allocator{newDir(t), []Pool{pool("10.1.0.0/24"), pool("fd00::/64")}}
	ref := asReference(t, a)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			o := Owner{fmt.Sprint("c", i), "eth0"}
			var got []string
			var err error
			if i%2 == 0 {
				got, err = ref.run("ADD", o, "")
			} else {
				var leases []Lease
				leases, err = a.Allocate(t.Context(), o)
				for _, l := range leases {
					got = append(got, l.Addr.String())
				}
			}
			mu.Lock()
			defer mu.Unlock()
			require.NoError(t, err)
			for _, ip := range got {
				seen[ip]++
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 128)
	require.Len(t, files(t, a.Dir), 128)
	for i := range 64 {
		wg.Go(func() {
			o := Owner{fmt.Sprint("c", i), "eth0"}
			if i%4 < 2 {
				_, err := ref.run("DEL", o, "")
				require.NoError(t, err)
			} else {
				require.NoError(t, a.Release(t.Context(), o))
			}
		})
	}
	wg.Wait()
	require.Empty(t, files(t, a.Dir))
	require.NoError(t, a.Release(t.Context(), alice))
	require.True(t, audit(t, a.Dir))
}
