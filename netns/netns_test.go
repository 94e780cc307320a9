//go:build linux

package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestDoThrowsItsThreadAway(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	tids := map[int]bool{}
	for range 50 {
		require.NoError(t, ns.Do(func() error {
			tids[unix.Gettid()] = true
			return unix.Unshare(unix.CLONE_NEWNET) // worse than anything that it is for
		}))
	}
	require.Eventually(t, func() bool {
		for tid := range tids {
			// A number that was given to a new thread is fine: that one is at home.
			if at, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", tid)); err == nil && at != home {
				return false
			}
		}
		return true
	}, 5*time.Second, 5*time.Millisecond)
}

func TestNoGoroutineEverSeesTheNamespaceOfAnothersDo(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	var wg sync.WaitGroup
	strays := make([]error, 8)
	for i := range strays {
		wg.Go(func() {
			for range 200 {
				if i%2 == 0 {
					strays[i] = errors.Join(strays[i], ns.Do(func() error { return nil }))
				}
				if at, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || at != home {
					strays[i] = fmt.Errorf("goroutine is in %s, not in %s: %w", at, home, err)
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(strays...))
}

func TestDoWorksFromTheFirstThreadToo(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=first-thread")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestDoPassesErrorsPanicsAndGoexitOn(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	mine := errors.New("mine")
	require.ErrorIs(t, ns.Do(func() error { return mine }), mine)
	require.ErrorContains(t, ns.Do(func() error { runtime.Goexit(); return nil }), "ended its goroutine")
	defer func() {
		text, ok := recover().(string)
		require.True(t, ok)
		require.Contains(t, text, "index out of range")
		require.Contains(t, text, "TestDoPassesErrorsPanicsAndGoexitOn", "the stack of the function that panicked")
	}()
	_ = ns.Do(func() error { var none []int; _ = none[unix.Getpid()]; return nil })
}

func TestDoRunsChildrenAndSysctlsInTheNamespace(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	var at []byte
	require.NoError(t, ns.Do(func() (err error) {
		at, err = exec.Command("readlink", "/proc/self/ns/net").Output()
		return err
	}))
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(ns.Fd(), &st))
	require.Equal(t, fmt.Sprintf("net:[%d]\n", st.Ino), string(at))
	nstest.Sysctl(t, ns, "net/ipv4/ip_forward", "1")
	require.NoError(t, ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		require.Equal(t, "1\n", string(b))
		return err
	}))
}

func TestASocketIsOfItsNamespaceAndClosesOnExec(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	require.NoError(t, err)
	want, err := ns.Cookie()
	require.NoError(t, err)
	require.Equal(t, want, cookie)

	// The namespace that a thread is in already costs no change.
	require.NoError(t, ns.Do(func() error {
		here, err := netns.Current()
		require.NoError(t, err)
		defer here.Close()
		c, err := here.Cookie()
		require.Equal(t, want, c)
		return err
	}))
	_, err = ns.Socket(unix.AF_INET, 99, 0)
	require.ErrorIs(t, err, unix.EINVAL)
	require.ErrorContains(t, err, ns.Path())
}

func TestSocketsOfManyNamespacesAtOnceAreNotMixedUp(t *testing.T) {
	t.Parallel()
	const n = 6
	var all [n]*netns.NS
	var cookies [n]uint64
	for i := range all {
		all[i] = nstest.New(t)
		var err error
		cookies[i], err = all[i].Cookie()
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 4*n)
	for g := range errs {
		wg.Go(func() {
			for range 50 {
				if c, err := all[g%n].Cookie(); err != nil || c != cookies[g%n] {
					errs[g] = fmt.Errorf("cookie %d, want %d: %w", c, cookies[g%n], err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

func TestLockExcludesUntilItIsGivenBack(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	other, err := netns.Open(filepath.Join(netns.Dir, name)) // as another process would
	require.NoError(t, err)
	defer other.Close()
	inside, most := 0, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			by := []*netns.NS{ns, other}[i%2]
			for range 20 {
				unlock, err := by.Lock(context.Background())
				if err != nil {
					errs[i] = err
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				inside--
				mu.Unlock()
				unlock()
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, 1, most)
}

func TestLockGivesUpWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	ns, another := nstest.New(t), nstest.New(t)
	unlock, err := ns.Lock(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = ns.Lock(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	free, err := another.Lock(ctx)
	require.NoError(t, err, "a free lock needs no time, and namespaces have locks of their own")
	free()
	unlock()
	again, err := ns.Lock(t.Context())
	require.NoError(t, err)
	again()
}

func TestKeepOpensOncePerKeyAndCloseCloses(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	ns, err := netns.New()
	require.NoError(t, err)
	type key struct{ n int }
	opened, closed := 0, 0
	open := func() (io.Closer, error) { opened++; return closer(func() error { closed++; return nil }), nil }
	for range 3 {
		_, err := ns.Keep(key{1}, open)
		require.NoError(t, err)
	}
	_, err = ns.Keep(key{2}, open)
	require.NoError(t, err)
	require.Equal(t, 2, opened)

	mine := errors.New("mine")
	_, err = ns.Keep(key{3}, func() (io.Closer, error) { return nil, mine })
	require.ErrorIs(t, err, mine)
	_, err = ns.Keep(key{3}, func() (io.Closer, error) { return closer(func() error { return mine }), nil })
	require.NoError(t, err, "what failed to open is tried again")
	require.ErrorIs(t, ns.Close(), mine)
	require.NoError(t, (*netns.NS)(nil).Close())
	require.Equal(t, 2, closed)
}

func TestASharedNamespaceIsClosedByItsLastOwner(t *testing.T) {
	t.Parallel()
	ns, err := netns.New()
	require.NoError(t, err)
	closed := 0
	_, err = ns.Keep("key", func() (io.Closer, error) { return closer(func() error { closed++; return nil }), nil })
	require.NoError(t, err)
	again := ns.Share()
	require.True(t, again.Same(ns))
	require.NoError(t, ns.Close())
	require.Zero(t, closed)
	_, err = again.Cookie()
	require.NoError(t, err)
	require.NoError(t, again.Close())
	require.Equal(t, 1, closed)
}

type closer func() error

func (c closer) Close() error { return c() }

func TestANewNamespaceHasNothingButLo(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	ns, err := netns.New()
	require.NoError(t, err)
	defer ns.Close()
	links, err := nstest.Netlink(t, ns).LinkList()
	require.NoError(t, err)
	require.Contains(t, links, linkNamed(links, "lo"))
	for _, l := range links { // some kernels add tunnel devices by themselves
		require.Zero(t, l.Attrs().Flags&unix.IFF_UP)
	}
}

func linkNamed(links []netlink.Link, name string) netlink.Link {
	for _, l := range links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func TestVisitLeavesNoThreadBehindInTheNamespace(t *testing.T) {
	t.Parallel()
	ns, err := netns.New()
	require.NoError(t, err)
	defer ns.Close()
	failed := errors.New("failed")
	for i := range 200 {
		var there bool
		err := ns.Visit(func() error {
			there = ns.Here()
			return []error{nil, failed}[i%2]
		})
		require.True(t, there)
		require.Equal(t, i%2 == 1, errors.Is(err, failed))
		require.False(t, ns.Here())
	}
}
