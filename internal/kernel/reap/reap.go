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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/start"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	childName = "cniblocks-reap"
	childSock = 3               // the descriptor by which a child gets its rtnetlink socket
	childPipe = 4               // and that by which it gets the message to send
	patience  = 1 * time.Second // for the announcement
)

// Child must be the first call of main: in a child of [Deleter] it does the work and does not return. A program that was
// linked to begin at the entry of package start has done it already.
func Child() {
	if len(os.Args) != 1 || os.Args[0] != childName {
		return
	}
	var message [256]byte
	n, err := unix.Read(childPipe, message[:])
	for err == unix.EINTR {
		n, err = unix.Read(childPipe, message[:])
	}
	if n <= 0 || unix.Sendto(childSock, message[:n], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		os.Exit(2)
	}
	os.Exit(0)
}

// Deleter removes interfaces. It is to be used in programs whose main calls [Child]. The zero value is ready to use.
type Deleter struct {
	program string // of the children; "": this one
}

// Delete removes the interface of that index from ns and returns when its name and its addresses are free; one that is
// not there is no error.
func (d *Deleter) Delete(ctx context.Context, ns *netns.NS, index int) error {
	news, err := rtnl.Listen(ns, rtnl.GroupLink)
	if err != nil {
		return err
	}
	defer news.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	if pid, err := d.start(ns, rtnl.DelLinkIndex(index)); err == nil {
		defer unix.Close(pid)
		if awaited(news, pid, index) {
			return nil
		}
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	err = c.Do(rtnl.DelLinkIndex(index))
	var e *rtnl.Error
	if errors.As(err, &e) && e.Errno == unix.ENODEV { // the child was only late
		return nil
	}
	return err
}

// start runs a child that sends m in ns, and returns a descriptor of its process. Whoever inherits the child reaps it: it
// is held longer than we live.
func (d *Deleter) start(ns *netns.NS, m *rtnl.Msg) (pid int, err error) {
	sock, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	defer unix.Close(sock)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	defer unix.Close(pipe[0])
	_, err = unix.Write(pipe[1], m.Bytes()) // which the pipe keeps for the child
	unix.Close(pipe[1])
	if err != nil {
		return -1, err
	}
	program := d.program
	if program == "" {
		program = "/proc/self/exe"
	}
	start.Spread() // the child need not wait for us, nor we for what it still does when the interface is gone
	const closed = ^uintptr(0)
	pid = -1
	// The child has a session of its own and nothing of ours open: no pipe of the runtime, no lock.
	_, _, err = syscall.StartProcess(program, []string{childName}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: []uintptr{closed, closed, closed, uintptr(sock), uintptr(pipe[0])},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pid},
	})
	if err == nil && pid < 0 {
		err = fmt.Errorf("no process descriptor: %w", errors.ErrUnsupported)
	}
	return pid, err
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
