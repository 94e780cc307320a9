//go:build linux

// Package reap deletes an interface in a child process, so that the caller need not wait until the kernel has freed its
// memory.
//
// A deletion takes effect at once: names, addresses and routes are gone when the kernel announces it (RTM_DELLINK). The
// caller of the deletion is held for some 20 milliseconds more, by an rcu_barrier that nobody else needs. Here a child, the
// same program executed again, asks the kernel for the deletion and is held; the parent waits for the announcement. If it
// does not come, because the child was killed or could not be started, the parent deletes the interface itself: nothing
// fails silently. A child that comes late asks for an index that is no longer there: the kernel gives them out in turn.
//
// Whoever inherits the child, process 1 or a nearer subreaper, reaps it, as it must every orphan. Where it does not, each
// deletion leaves an entry in the process table.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	childName = "cniblocks-reap"
	childSock = 3               // the descriptor by which a child gets its socket
	patience  = 1 * time.Second // for the announcement
)

// Child must be the first call of main: in a child of [Delete] it does the work and does not return.
func Child() {
	if len(os.Args) != 2 || os.Args[0] != childName {
		return
	}
	index, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(2)
	}
	_ = unix.Sendto(childSock, rtnl.DelLinkIndex(index).Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	os.Exit(0)
}

// Delete removes the interface of that index from ns and returns when its name and its addresses are free; one that is
// not there is no error. It is to be used in programs whose main calls [Child].
func Delete(ctx context.Context, ns *netns.NS, index int) error {
	return reaper{"/proc/self/exe"}.remove(ctx, ns, index)
}

// reaper starts children of a program.
type reaper struct{ program string }

func (r reaper) remove(ctx context.Context, ns *netns.NS, index int) error {
	news, err := rtnl.Listen(ns, rtnl.GroupLink)
	if err != nil {
		return err
	}
	defer news.Close()
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if pid, err := r.start(ns, index); err == nil {
		defer unix.Close(pid)
		if awaited(news, pid, index) {
			return nil
		}
	}
	err = c.Do(rtnl.DelLinkIndex(index))
	var e *rtnl.Error
	if errors.As(err, &e) && e.Errno == unix.ENODEV { // the child was only late
		return nil
	}
	return err
}

// start runs the child and returns a descriptor of the process.
func (r reaper) start(ns *netns.NS, index int) (pid int, err error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	sock := os.NewFile(uintptr(fd), "rtnetlink")
	defer sock.Close()
	pid = -1
	// The child has a session of its own and nothing of ours open: no pipe of the runtime, no lock.
	p, err := os.StartProcess(r.program, []string{childName, strconv.Itoa(index)}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{nil, nil, nil, sock},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pid},
	})
	if err != nil {
		return -1, err
	}
	_ = p.Release() // the child is held longer than we live; whoever inherits it reaps it
	if pid < 0 {
		return -1, fmt.Errorf("no process descriptor: %w", errors.ErrUnsupported)
	}
	return pid, nil
}

// awaited waits for the announcement that the interface is gone. It gives up after a second, or when the child has ended
// and nothing came.
func awaited(news *rtnl.Listener, pid, index int) bool {
	deadline := time.Now().Add(patience)
	fds := []unix.PollFd{{Fd: int32(news.Fd()), Events: unix.POLLIN}, {Fd: int32(pid), Events: unix.POLLIN}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		if fds[0].Revents != 0 {
			gone, err := news.Deleted(index)
			if gone || err != nil {
				return gone
			}
		} else if fds[1].Revents != 0 {
			return false
		}
	}
}
