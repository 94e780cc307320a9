//go:build linux

package reap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// parentEnv makes a copy of this test binary a program that deletes interfaces: what it does, the path of a namespace,
// the program of its children, and indexes.
const parentEnv = "CNIBLOCKS_TEST_REAP"

func TestMain(m *testing.M) {
	Child()
	if job, ok := os.LookupEnv(parentEnv); ok {
		if err := parent(strings.Fields(job)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The children whose parents have ended become ours, so that the tests leave none.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	nstest.Main(m, inherit, binaries.Remove)
}

// inherit waits for all children: those that Delete left to whoever inherits them.
func inherit() {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.ECHILD {
			return
		}
		if pid == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func parent(job []string) error {
	what, program := job[0], job[2]
	ns, err := netns.Open(job[1])
	if err != nil {
		return err
	}
	defer ns.Close()
	r := &Deleter{program: program}
	for _, s := range job[3:] {
		index, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		switch what {
		case "delete":
			err = r.Delete(context.Background(), ns, index)
		case "start-and-die":
			if _, err = r.start(ns, rtnl.DelLinkIndex(index)); err == nil {
				err = unix.Kill(os.Getpid(), unix.SIGKILL)
			}
		case "delete-and-kill":
			if err = r.Delete(context.Background(), ns, index); err == nil {
				err = killChildren()
			}
		case "be-process-1":
			if os.Getpid() != 1 {
				return fmt.Errorf("this is process %d", os.Getpid())
			}
			err = call("delete", job[1], program, 0, index)
		}
		if err != nil {
			return fmt.Errorf("%s %d: %w", what, index, err)
		}
	}
	return nil
}

// call runs a parent and waits for it.
func call(what, ns, program string, flags uintptr, indexes ...int) error {
	words := []string{what, ns, program}
	for _, i := range indexes {
		words = append(words, strconv.Itoa(i))
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentEnv+"="+strings.Join(words, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func killChildren() error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		for _, s := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(s)
			if err == nil {
				err = unix.Kill(pid, unix.SIGKILL)
			}
			if err != nil {
				return err
			}
		}
	}
	return err
}
