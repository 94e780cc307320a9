//go:build linux

package netns_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// childEnv names what a copy of this test binary does instead of running tests.
const childEnv = "CNIBLOCKS_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "first-thread" {
		if err := workFromTheFirstThread(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

// workFromTheFirstThread calls Do until goroutines of it began on the first thread of this process, which the tests
// themselves cannot provoke: their TestMain holds that thread.
func workFromTheFirstThread() error {
	runtime.GOMAXPROCS(1) // a goroutine that waits leaves its thread to the one that it started
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	first := 0
	for range 100 {
		if unix.Gettid() == unix.Getpid() {
			first++
		}
		if err := ns.Do(func() error {
			switch {
			case unix.Gettid() == unix.Getpid():
				return fmt.Errorf("the function runs on the first thread, which cannot be thrown away")
			case !ns.Here():
				return fmt.Errorf("the function runs elsewhere")
			}
			return nil
		}); err != nil {
			return err
		}
		mustPanic(func() { _ = ns.Do(func() error { panic("on purpose") }) })
	}
	if first == 0 {
		return fmt.Errorf("no goroutine was ever on the first thread")
	}
	// A thread ends a moment after the goroutine that was locked to it; one that is only parked stays for good.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := elsewhere(home)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// elsewhere is an error that names a thread of this process which is not in the namespace home.
func elsewhere(home string) error {
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if at, err := os.Readlink(task); err == nil && at != home {
			return fmt.Errorf("%s is still in %s", task, at)
		}
	}
	return nil
}

func mustPanic(f func()) {
	defer func() {
		if recover() == nil {
			panic("no panic")
		}
	}()
	f()
}
