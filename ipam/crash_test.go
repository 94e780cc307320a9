//go:build linux

package ipam

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	if flag.Parse(); flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // fuzzing keeps a goroutine
	}
	nstest.Main(m)
}

// dieBefore runs f, ends it before the system call that writes after n others, and says whether that came. As with a
// process that is killed, the kernel closes the files: they are those of a thread that dies.
func dieBefore(t *testing.T, n int, a Allocator, f func(Allocator) error) (died bool) {
	t.Helper()
	a.hooks = &hooks{fault: kill, left: n, oldKernel: a.hooks.noTmpfile()}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FILES)
		defer func() {
			if p := recover(); p != nil {
				_, died = p.(killed)
				if !died {
					err = fmt.Errorf("panic: %v", p)
				}
			}
			errs <- err
		}()
		if err == nil {
			err = f(a)
		}
	}()
	err := <-errs
	if !died {
		require.NoError(t, err)
	}
	return died
}

// Both pools have room for six owners.
var crashPools = []Pool{{rng("10.1.0.0/24", "10.1.0.2", "10.1.0.7", "")}, {rng("fd00::/64", "fd00::2", "fd00::7", "")}}

// scenario is an operation of alice's, or a GC, and what was before.
type scenario struct {
	prepare func(*testing.T, *Allocator)
	op      func(context.Context, Allocator) error
	lives   []Owner // who must still have leases afterwards
}

func scenarios() map[string]scenario {
	old := func(t *testing.T, a *Allocator, owners ...Owner) {
		for _, o := range owners {
			allocate(t, *a, o)
		}
		a.Dir = a.reboot(2)
	}
	full := []Owner{bob, carol, {"d", "eth0"}, {"e", "eth0"}, {"f", "eth0"}, {"g", "eth0"}}
	return map[string]scenario{
		"first allocate": {
			op: func(ctx context.Context, a Allocator) error { _, err := a.Allocate(ctx, alice); return err },
		},
		"allocate": {
			prepare: func(t *testing.T, a *Allocator) { allocate(t, *a, bob) },
			op:      func(ctx context.Context, a Allocator) error { _, err := a.Allocate(ctx, alice); return err },
			lives:   []Owner{bob},
		},
		"release": {
			prepare: func(t *testing.T, a *Allocator) { allocate(t, *a, bob); allocate(t, *a, alice) },
			op:      func(ctx context.Context, a Allocator) error { return a.Release(ctx, alice) },
			lives:   []Owner{bob},
		},
		"release without an index": {
			prepare: func(t *testing.T, a *Allocator) {
				allocate(t, *a, bob)
				allocate(t, *a, alice)
				require.NoError(t, os.RemoveAll(filepath.Join(a.DataDir, ".cniblocks")))
			},
			op:    func(ctx context.Context, a Allocator) error { return a.Release(ctx, alice) },
			lives: []Owner{bob},
		},
		"release after another program's change": {
			prepare: func(t *testing.T, a *Allocator) { allocate(t, *a, bob); write(t, a.Dir, "10.1.0.5", "alice") },
			op:      func(ctx context.Context, a Allocator) error { return a.Release(ctx, alice) },
			lives:   []Owner{bob},
		},
		"same owner after a reboot": {
			prepare: func(t *testing.T, a *Allocator) { old(t, a, bob, alice); allocate(t, *a, bob) },
			op:      func(ctx context.Context, a Allocator) error { _, err := a.Allocate(ctx, alice); return err },
			lives:   []Owner{bob},
		},
		"same owner after a reboot, another address": {
			prepare: func(t *testing.T, a *Allocator) { old(t, a, bob, alice); allocate(t, *a, bob) },
			op: func(ctx context.Context, a Allocator) error {
				_, err := a.Allocate(ctx, alice, addr("10.1.0.6"))
				return err
			},
			lives: []Owner{bob},
		},
		"reclaim": {
			prepare: func(t *testing.T, a *Allocator) { old(t, a, full...); allocate(t, *a, bob) },
			op:      func(ctx context.Context, a Allocator) error { _, err := a.Allocate(ctx, alice); return err },
			lives:   []Owner{bob},
		},
		"reclaim the wanted": {
			prepare: func(t *testing.T, a *Allocator) { old(t, a, full...); allocate(t, *a, bob) },
			op: func(ctx context.Context, a Allocator) error {
				_, err := a.Allocate(ctx, alice, addrs("fd00::5", "10.1.0.6")...)
				return err
			},
			lives: []Owner{bob},
		},
		"reclaim of torn files": {
			prepare: func(t *testing.T, a *Allocator) {
				for i := 2; i < 8; i++ {
					write(t, a.Dir, fmt.Sprintf("10.1.0.%d", i), "")
				}
			},
			op: func(ctx context.Context, a Allocator) error { _, err := a.Allocate(ctx, alice); return err },
		},
		"retain": {
			prepare: func(t *testing.T, a *Allocator) {
				for _, o := range full[:5] {
					allocate(t, *a, o)
				}
			},
			op: func(ctx context.Context, a Allocator) error {
				return a.Retain(ctx, slices.Values([]Owner{bob, carol}))
			},
			lives: []Owner{bob, carol},
		},
	}
}

func TestACrashAtAnyWriteIsMendedByTheNextCallAndLeaksNothing(t *testing.T) {
	t.Parallel()
	for name, c := range scenarios() {
		for _, oldKernel := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, old kernel %v", name, oldKernel), func(t *testing.T) {
				for n := 0; ; n++ {
					require.Less(t, n, 300)
					a := Allocator{memDir(t), crashPools}
					a.hooks = &hooks{oldKernel: oldKernel}
					if c.prepare != nil {
						c.prepare(t, &a)
					}
					died := dieBefore(t, n, a, func(a Allocator) error { return c.op(t.Context(), a) })
					mended(t, a, c.lives)
					if !died {
						break
					}
				}
			})
		}
	}
}

func TestAWriteThatFailsLeavesAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, c := range scenarios() {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				require.Less(t, n, 300)
				a := Allocator{memDir(t), crashPools}
				if c.prepare != nil {
					c.prepare(t, &a)
				}
				a.hooks = &hooks{fault: once, left: n}
				err := c.op(t.Context(), a)
				came := a.hooks.fault == none
				a.hooks = nil
				audit(t, a.Dir)
				alices := 0
				for _, content := range files(t, a.Dir) {
					if strings.Contains(content, "alice") {
						alices++
					}
				}
				switch {
				case strings.HasPrefix(name, "release"):
					require.NoError(t, err, "giving back gets around it")
					require.Zero(t, alices)
				case name != "retain" && err == nil:
					require.Equal(t, 2, alices)
				case name != "retain" && !strings.Contains(name, "same owner"):
					require.ErrorIs(t, err, unix.ENOSPC)
					require.Zero(t, alices)
				}
				mended(t, a, c.lives)
				if !came {
					break
				}
			}
		})
	}
}

func TestAFullDiskIsMendedWhenThereIsRoomAgain(t *testing.T) {
	t.Parallel()
	for name, c := range scenarios() {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				require.Less(t, n, 300)
				a := Allocator{memDir(t), crashPools}
				if c.prepare != nil {
					c.prepare(t, &a)
				}
				a.hooks = &hooks{fault: full, left: n}
				err := c.op(t.Context(), a)
				a.hooks = nil
				mended(t, a, c.lives)
				if err == nil {
					break
				}
			}
		})
	}
}

// mended proves that a crash during an operation for alice, or a GC, has no trace after the calls that follow anyway.
func mended(t *testing.T, a Allocator, lives []Owner) {
	t.Helper()
	audit(t, a.Dir)
	for _, o := range lives {
		require.NoError(t, a.Check(t.Context(), o))
	}
	require.NoError(t, a.Release(t.Context(), alice))
	audit(t, a.Dir)
	for name, content := range files(t, a.Dir) {
		require.NotContains(t, content, "alice", name)
	}
	allocate(t, a, alice)
	for _, o := range lives {
		require.NoError(t, a.Check(t.Context(), o))
	}
	require.NoError(t, a.Retain(t.Context(), slices.Values(append(slices.Clone(lives), alice))))
	require.True(t, audit(t, a.Dir))
	require.Len(t, files(t, a.Dir), 2*(1+len(lives)))
	for i := range 5 - len(lives) {
		allocate(t, a, Owner{fmt.Sprint("more", i), "eth0"})
	}
	_, err := a.Allocate(t.Context(), Owner{"one-too-many", "eth0"})
	require.ErrorIs(t, err, ErrExhausted)
	require.True(t, audit(t, a.Dir))
	entries, err := os.ReadDir(filepath.Join(a.DataDir, ".cniblocks", "blue"))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestACrashBeforeTheNextRebootDoesNotCostAnAddressForEver(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		a := Allocator{memDir(t), crashPools}
		died := dieBefore(t, n, a, func(a Allocator) error { _, err := a.Allocate(t.Context(), alice); return err })
		for boot := 2; boot < 4; boot++ { // the second at the latest knows what the first found
			a.Dir = a.reboot(boot)
			_, err := a.Available(t.Context())
			require.NoError(t, err)
		}
		free, err := a.Available(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{6, 6}, free)
		if !died {
			break
		}
	}
}

func TestACrashLeavesNoDirectoryOfOursThatLooksLikeTheReferences(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		a := Allocator{memDir(t), crashPools}
		died := dieBefore(t, n, a, func(a Allocator) error { _, err := a.Allocate(t.Context(), alice); return err })
		if _, err := os.Stat(a.leaseDir()); err == nil {
			require.DirExists(t, filepath.Join(a.DataDir, ".cniblocks", a.Network), "before write %d", n)
		}
		if !died {
			break
		}
	}
}

const childEnv = "CNIBLOCKS_IPAM_CHILD"

// child allocates and releases until it is killed, and prints what it holds.
func child(dir string) int {
	a := Allocator{Dir{DataDir: dir, Network: "blue", BootID: "boot-1"}, []Pool{{rng("10.1.0.0/16", "", "", "")}}}
	for i := 0; ; i++ {
		o := Owner{fmt.Sprintf("p%d-%d", os.Getpid(), i), "eth0"}
		if i >= 2 {
			gone := Owner{fmt.Sprintf("p%d-%d", os.Getpid(), i-2), "eth0"}
			fmt.Println("release", gone.ContainerID)
			if err := a.Release(context.Background(), gone); err != nil {
				fmt.Println("error", err)
				return 1
			}
		}
		got, err := a.Allocate(context.Background(), o)
		if err != nil {
			fmt.Println("error", err)
			return 1
		}
		fmt.Println("holds", o.ContainerID, got[0].Addr.Addr())
	}
}

func TestProcessesThatAreKilledNeverShareAnAddressNorLoseOne(t *testing.T) {
	t.Parallel()
	d := memDir(t)
	a := Allocator{d, []Pool{pool("10.1.0.0/16")}}
	held := make([]map[string]string, 16)
	var wg sync.WaitGroup
	for i := range held {
		wg.Go(func() { held[i] = runChild(t, d.DataDir, time.Duration(rand.IntN(150))*time.Millisecond) })
	}
	wg.Wait()
	seen := map[string]string{}
	for _, m := range held {
		for id, at := range m {
			require.NotContains(t, seen, at)
			seen[at] = id
			require.NoError(t, a.Check(t.Context(), Owner{id, "eth0"}, addr(at)))
		}
	}
	audit(t, d)
	all := files(t, d)
	require.LessOrEqual(t, len(all), len(seen)+2*len(held), "more than what was held and what was being done")
	for _, content := range all {
		o, _ := parseOwner([]byte(content))
		require.NoError(t, a.Release(t.Context(), o))
	}
	require.Empty(t, files(t, d))
	allocate(t, a, alice)
	require.True(t, audit(t, d))
}

// runChild kills a child after some time and returns what it surely held then.
func runChild(t *testing.T, dir string, life time.Duration) map[string]string {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var timer *time.Timer
	held := map[string]string{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if timer == nil {
			timer = time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
		}
		switch f := strings.Fields(lines.Text()); f[0] {
		case "holds":
			if len(f) == 3 {
				held[f[1]] = f[2]
			}
		case "release":
			delete(held, f[1])
		default:
			require.Fail(t, lines.Text())
		}
	}
	_ = cmd.Wait()
	return held
}
