//go:build linux

// Package tracer runs a program under ptrace(2) and stops it before every system call that changes something outside of
// it, so that tests can kill it there, or let another program run meanwhile. It counts the calls of all threads of the
// program, in the order in which they happen. For tests only.
package tracer

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// changes are the system calls that change something outside of the process: netlink, files, other programs.
var changes = map[uint64]bool{
	unix.SYS_SENDTO: true, unix.SYS_SENDMSG: true, unix.SYS_WRITE: true, unix.SYS_PWRITE64: true, unix.SYS_OPENAT: true,
	unix.SYS_LINKAT: true, unix.SYS_UNLINKAT: true, unix.SYS_RENAMEAT: true, unix.SYS_RENAMEAT2: true, unix.SYS_MKDIRAT: true,
	unix.SYS_SYMLINKAT: true, unix.SYS_UTIMENSAT: true, unix.SYS_FTRUNCATE: true, unix.SYS_FLOCK: true, unix.SYS_EXECVE: true,
	unix.SYS_SETNS: true,
}

// of openat(2) only those that may make a file count
const making = unix.O_CREAT | unix.O_TRUNC | unix.O_TMPFILE&^unix.O_DIRECTORY

// Run starts the command and calls before ahead of its n-th change, counted from 1. The program stands still until before
// returns; if that is false it is killed. One that runs to its end and fails is an error. Other programs that it started
// live on. The command's Stdout and Stderr must be files or nil: nobody waits for a copy to end.
func Run(cmd *exec.Cmd, before func(n int) (goOn bool)) (killed bool, err error) {
	runtime.LockOSThread() // the thread that starts it is its tracer
	defer runtime.UnlockOSThread()
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return false, err
	}
	t := tracer{main: cmd.Process.Pid, before: before}
	defer func() { _ = cmd.Process.Release() }() // it was waited for here
	if err := t.follow(); err != nil {
		return false, err
	}
	if !t.killed && t.status.ExitStatus() != 0 {
		return false, fmt.Errorf("%s: exit status %d", cmd.Path, t.status.ExitStatus())
	}
	return t.killed, nil
}

type tracer struct {
	main, count int
	before      func(int) bool
	started     bool
	killed      bool
	status      unix.WaitStatus
}

// Threads are traced, programs that it starts are not.
const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL

// follow handles the stops of all threads until the program has ended. It waits for what this thread traces, and takes
// no other child's end from whoever waits for it.
func (t *tracer) follow() error {
	for {
		var st unix.WaitStatus
		tid, err := unix.Wait4(-1, &st, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		switch {
		case (st.Exited() || st.Signaled()) && tid == t.main:
			t.status = st
			t.killed = t.killed && st.Signaled()
			return nil
		case st.Stopped():
			t.stopped(tid, st)
		}
	}
}

func (t *tracer) stopped(tid int, st unix.WaitStatus) {
	signal := 0
	switch sig := st.StopSignal(); {
	case !t.started: // the stop at its exec
		t.started = true
		_ = unix.PtraceSetOptions(tid, options)
	case sig == unix.SIGTRAP|0x80:
		if !t.killed && entersChange(tid) {
			if t.count++; !t.before(t.count) {
				t.killed = true
				_ = unix.Kill(t.main, unix.SIGKILL)
				return
			}
		}
	case sig != unix.SIGTRAP && sig != unix.SIGSTOP:
		signal = int(sig)
	}
	_ = unix.PtraceSyscall(tid, signal)
}

// entersChange reports whether the thread stands before a call that changes something.
func entersChange(tid int) bool {
	var info struct {
		op       uint8
		_        [3]uint8
		arch     uint32
		ip, sp   uint64
		nr       uint64
		args     [6]uint64
		reserved [4]uint64
	}
	const getSyscallInfo, entry = 0x420e, 1
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != entry || !changes[info.nr] {
		return false
	}
	return info.nr != unix.SYS_OPENAT || info.args[2]&making != 0
}
