//go:build linux

// Package tracer runs a program under ptrace(2) and stops it before every system call that changes something outside of
// it, so that tests can kill it there, have the call fail, or let another program run meanwhile. It counts the calls of
// all threads of the program, in the order in which they happen. For tests only.
package tracer

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Verdict is what becomes of a call, and of the program that makes it. The zero value lets it happen.
type Verdict struct {
	kill  bool
	errno syscall.Errno
}

// Kill ends the program before the call.
func Kill() Verdict { return Verdict{kill: true} }

// Fail has the call do nothing and return an error. It works on amd64 only.
func Fail(errno syscall.Errno) Verdict { return Verdict{errno: errno} }

// Outcome is how a program ended.
type Outcome struct {
	Killed  bool // by a verdict
	Status  int  // its exit status
	Changes int  // that it came to make, the last one perhaps in vain
}

// Trace starts the command and asks before ahead of every change. The program stands still until before returns. Programs
// that it starts are not asked about; Trace returns when they, too, have ended. The command's Stdout and Stderr must be
// files or nil: nobody waits for a copy to end.
func Trace(cmd *exec.Cmd, before func(Call) Verdict) (Outcome, error) {
	return run(cmd, tracer{of: changes, before: before})
}

// TraceAnswers is [Trace] with the calls that receive from a socket in place of those that change something. One that
// fails has received nothing; the message waits for the next.
func TraceAnswers(cmd *exec.Cmd, before func(Call) Verdict) (Outcome, error) {
	return run(cmd, tracer{of: answers, before: before})
}

func run(cmd *exec.Cmd, t tracer) (Outcome, error) {
	runtime.LockOSThread() // the thread that starts it is its tracer
	defer runtime.UnlockOSThread()
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return Outcome{}, err
	}
	t.main, t.others = cmd.Process.Pid, map[int]bool{}
	defer func() { _ = cmd.Process.Release() }() // it was waited for here
	err := t.follow()
	return Outcome{t.killed && t.status.Signaled(), t.status.ExitStatus(), t.count}, err
}

// Run is [Trace] with nothing but the choice to go on before the n-th change, counted from 1, or to kill the program. One
// that runs to its end and fails is an error.
func Run(cmd *exec.Cmd, before func(n int) (goOn bool)) (killed bool, err error) {
	out, err := Trace(cmd, func(c Call) Verdict {
		if before(c.N) {
			return Verdict{}
		}
		return Kill()
	})
	if err == nil && !out.Killed && out.Status != 0 {
		err = fmt.Errorf("%s: exit status %d", cmd.Path, out.Status)
	}
	return out.Killed, err
}

type tracer struct {
	main, count int
	of          map[uint64]string
	before      func(Call) Verdict
	started     bool
	every       bool // have it stop at every call
	filtered    bool // it stops at those in of only
	killed      bool
	ended       bool
	status      unix.WaitStatus
	others      map[int]bool // threads of other programs, which it started
}

const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEFORK |
	unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL

// follow handles the stops of all threads until the program and those that it started have ended. It waits for what this
// thread traces, and takes no other child's end from whoever waits for it.
func (t *tracer) follow() error {
	for !t.ended || len(t.others) > 0 {
		var st unix.WaitStatus
		tid, err := unix.Wait4(-1, &st, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case st.Stopped():
			t.stopped(tid, st)
		case tid == t.main:
			t.status, t.ended = st, true
		default:
			delete(t.others, tid)
		}
	}
	return nil
}

func (t *tracer) stopped(tid int, st unix.WaitStatus) {
	sig := st.StopSignal()
	if !t.started { // the stop at its exec
		t.started = true
		_ = unix.PtraceSetOptions(tid, options)
		t.filtered = !t.every && filter(tid, t.of) == nil
	} else if sig == unix.SIGSTOP && tid != t.main && !t.others[tid] && processOf(tid) != t.main { // how a new one begins
		t.others[tid] = true
	}
	signal := 0
	if sig != unix.SIGTRAP && sig != unix.SIGTRAP|0x80 && sig != unix.SIGSTOP {
		signal = int(sig)
	}
	if t.others[tid] {
		_ = unix.PtraceCont(tid, signal)
		return
	}
	call := sig == unix.SIGTRAP|0x80 || st.TrapCause() == unix.PTRACE_EVENT_SECCOMP
	switch {
	case call && !t.judge(tid):
	case t.filtered:
		_ = unix.PtraceCont(tid, signal)
	default:
		_ = unix.PtraceSyscall(tid, signal)
	}
}

// judge handles the beginning and the end of a system call. It is false if the program is no more.
func (t *tracer) judge(tid int) bool {
	c, ok := callOf(t.main, tid, t.of)
	if !ok || t.killed {
		return true
	}
	t.count++
	c.N = t.count
	switch v := t.before(c); {
	case v.kill:
		t.killed = true
		_ = unix.Kill(t.main, unix.SIGKILL)
		return false
	case v.errno != 0:
		skip(tid, v.errno)
	}
	return true
}
