package tracer

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// skip has the thread, which stands before a system call, make one that does not exist, and return the error.
func skip(tid int, errno syscall.Errno) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) == nil {
		r.Orig_rax, r.Rax = ^uint64(0), -uint64(errno)
		_ = unix.PtraceSetRegs(tid, &r)
	}
}
