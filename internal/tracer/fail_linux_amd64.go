package tracer

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// skip has the thread, which stands before a system call, make one that does not exist.
func skip(tid int) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) == nil {
		r.Orig_rax = ^uint64(0)
		_ = unix.PtraceSetRegs(tid, &r)
	}
}

// result sets what the call that has ended returns.
func result(tid int, errno syscall.Errno) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) == nil {
		r.Rax = -uint64(errno)
		_ = unix.PtraceSetRegs(tid, &r)
	}
}
