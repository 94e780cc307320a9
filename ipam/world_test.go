//go:build linux

package ipam

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var (
	alice = Owner{"alice", "eth0"}
	bob   = Owner{"bob", "eth0"}
	carol = Owner{"carol", "eth0"}
)

func newDir(t testing.TB) Dir {
	return Dir{DataDir: t.TempDir(), Network: "blue", BootID: "boot-1"}
}

// memDir is for tests with many files.
func memDir(t testing.TB) Dir {
	dir, err := os.MkdirTemp("/dev/shm", "ipam-test-") //nolint:usetesting // it is to be in memory
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return Dir{DataDir: dir, Network: "blue", BootID: "boot-1"}
}

func (d Dir) leaseDir() string { return filepath.Join(d.DataDir, d.Network) }

// boot is the same directory after n more reboots.
func (d Dir) reboot(n int) Dir {
	d.BootID = fmt.Sprintf("boot-%d", n)
	return d
}

func allocate(t testing.TB, a Allocator, o Owner, wanted ...string) []string {
	t.Helper()
	leases, err := a.Allocate(t.Context(), o, addrs(wanted...)...)
	require.NoError(t, err)
	var got []string
	for i, l := range leases {
		require.Equal(t, i, l.Pool)
		got = append(got, l.Addr.Addr().String())
	}
	require.NoError(t, a.Check(t.Context(), o, addrs(got...)...))
	require.NoError(t, a.Check(t.Context(), o))
	return got
}

func addrs(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// files is what the directory of leases holds: names and contents.
func files(t testing.TB, d Dir) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(d.leaseDir())
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	for _, e := range entries {
		if _, ok := parseName(e.Name()); !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(d.leaseDir(), e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(b)
	}
	return all
}

func write(t testing.TB, d Dir, name, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(d.leaseDir(), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(d.leaseDir(), name), []byte(content), 0o600))
}

func remove(t testing.TB, d Dir, name string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(d.leaseDir(), name)))
}

// inspect opens the directory as a call would, without reading it where the index is not in step.
func inspect(t testing.TB, d Dir, f func(s *session)) {
	t.Helper()
	s, err := d.begin(t.Context(), d.BootID, false)
	require.NoError(t, err)
	defer s.close()
	require.NoError(t, s.openIndex())
	f(s)
}

// tamper does f to the index and pretends that nothing happened.
func tamper(t testing.TB, d Dir, f func(s *session)) {
	t.Helper()
	inspect(t, d, func(s *session) {
		require.True(t, s.inStep())
		f(s)
		s.stamp()
	})
}

type entry struct {
	addr netip.Addr
	id   identity
}

// audit proves that an index that claims to be in step is.
func audit(t testing.TB, d Dir) (inStep bool) {
	t.Helper()
	if _, err := os.Stat(d.leaseDir()); os.IsNotExist(err) {
		return false
	}
	inspect(t, d, func(s *session) {
		if inStep = s.inStep(); !inStep {
			return
		}
		v, err := s.scan(t.Context())
		require.NoError(t, err)
		there := append(slices.Clone(v.torn), v.foreign...)
		known := map[Owner]map[entry]bool{}
		for _, l := range v.leases {
			there = append(there, l.addr)
			if known[l.owner] == nil {
				slots, err := s.remembered(l.owner)
				require.NoError(t, err)
				known[l.owner] = map[entry]bool{}
				for _, sl := range slots {
					known[l.owner][entry{sl.addr, sl.id}] = true
				}
			}
			require.True(t, known[l.owner][entry{l.addr, l.id}], "%v", l)
		}
		var marked []netip.Addr
		names, err := s.idx.names()
		require.NoError(t, err)
		for _, n := range names {
			if n == tableName {
				continue
			}
			base := netip.MustParseAddr(n[len("block."):])
			b, err := s.block(base)
			require.NoError(t, err)
			for off := b.find(used, true, 0, blockSize-1); off >= 0 && off < blockSize; off = b.find(used, true, off+1, blockSize-1) {
				marked = append(marked, at(base, off))
			}
		}
		slices.SortFunc(there, netip.Addr.Compare)
		slices.SortFunc(marked, netip.Addr.Compare)
		require.True(t, slices.Equal(there, marked), "%v\n%v", there, marked)
	})
	return inStep
}

func flock(t testing.TB, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return func() { require.NoError(t, f.Close()) }
}
