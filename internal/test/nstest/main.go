//go:build linux

package nstest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

const (
	patience   = 3 * time.Second // what teardown may take after the last test
	maxThreads = 512             // the Go runtime keeps the threads that blocked at the same time once
	userNS     = "CNIBLOCKS_TEST_USERNS"
)

// Main runs the tests of a package and fails the run when they leaked a descriptor, a goroutine, a child process, a pinned
// namespace, or a thread that stayed in another namespace:
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
// The functions in after are called when the tests are done, before the leaks are looked for.
//
// A plain user's tests run again in a user namespace of their own, as unshare -Urnm would, where that is permitted.
func Main(m *testing.M, after ...func()) {
	if os.Geteuid() != 0 && os.Getenv(userNS) == "" {
		if code, ok := inUserNS(); ok {
			os.Exit(code)
		}
	}
	if os.Getenv(userNS) == "1" { // pins need a directory that this user owns; copies of this process share it
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			fmt.Fprintln(os.Stderr, "nstest: tmpfs on /run:", err)
		}
		_ = os.Setenv(userNS, "ready")
	}
	// The first thread of a process never ends, so a namespace that a goroutine left it in would live on with it.
	runtime.LockOSThread()
	before := look()
	code := m.Run()
	for _, f := range after {
		f()
	}
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // package testing itself keeps goroutines and processes while it fuzzes
	}
	if leaks := settle(before); len(leaks) > 0 {
		for _, l := range leaks {
			fmt.Fprintln(os.Stderr, "nstest: leaked:", l)
		}
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

func inUserNS() (code int, ok bool) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), userNS+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	if err := cmd.Start(); err != nil {
		return 0, false
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), true
}

// state is what a leak adds to.
type state struct {
	files      map[string]string // descriptor to what it is
	goroutines int
	home       string // the network namespace
}

func look() state {
	s := state{files: map[string]string{}, goroutines: runtime.NumGoroutine()}
	s.home, _ = os.Readlink("/proc/self/ns/net")
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || runtimeOwns(to) { // the former is the directory that Glob had open
			continue
		}
		s.files[filepath.Base(fd)+" "+to] = to
	}
	return s
}

// runtimeOwns names what the Go runtime and package testing open once and keep.
func runtimeOwns(to string) bool {
	return to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" || strings.HasPrefix(to, "/sys/fs/cgroup/") ||
		strings.HasPrefix(to, "/dev/") || strings.Contains(to, "/testlog.txt")
}

// settle compares until nothing is left or patience ends. It forces no garbage collection: a descriptor that only a
// finalizer closes has leaked.
func settle(before state) []string {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		leaks := compare(before)
		if len(leaks) == 0 || time.Now().After(end) {
			return leaks
		}
	}
}

func compare(before state) (leaks []string) {
	now := look()
	for fd := range now.files {
		if _, ok := before.files[fd]; !ok {
			leaks = append(leaks, "descriptor "+fd)
		}
	}
	if now.goroutines > before.goroutines {
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		leaks = append(leaks, fmt.Sprintf("%d goroutines:\n%s", now.goroutines-before.goroutines, stacks.String()))
	}
	names, err := netns.List()
	if err != nil {
		leaks = append(leaks, err.Error())
	}
	for _, n := range names {
		if strings.HasPrefix(n, own) {
			leaks = append(leaks, "namespace "+n)
		}
	}
	leaks = append(leaks, threads(before.home)...)
	slices.Sort(leaks)
	return leaks
}

// threads finds those that are not where the process began, and children that nobody waited for.
func threads(home string) (leaks []string) {
	tasks, _ := filepath.Glob("/proc/self/task/*")
	for _, task := range tasks {
		if at, err := os.Readlink(task + "/ns/net"); err == nil && at != home {
			leaks = append(leaks, "thread "+filepath.Base(task)+" in "+at)
		}
		if kids, err := os.ReadFile(task + "/children"); err == nil && len(strings.TrimSpace(string(kids))) > 0 {
			leaks = append(leaks, "child process "+strings.TrimSpace(string(kids)))
		}
	}
	if len(tasks) > maxThreads {
		leaks = append(leaks, fmt.Sprintf("%d threads", len(tasks)))
	}
	return leaks
}
