package tracer

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filter has the kernel stop the program, which stands at its very beginning, before the calls in of and nowhere else:
// the others then cost nothing, and a Go program makes thousands. Programs that it starts inherit that.
func filter(tid int, of map[uint64]string) error {
	rules := program(of)
	var begin unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &begin); err != nil {
		return err
	}
	// The kernel reads both from the memory of the program, below its stack, where nothing is yet.
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&rules[0])), len(rules)*int(unsafe.Sizeof(rules[0])))
	at := (uintptr(begin.Rsp) - 4096) &^ 15
	head := struct {
		count uint64 // struct sock_fprog, whose first member has two bytes
		rules uint64
	}{uint64(len(rules)), uint64(at)}
	if _, err := unix.PtracePokeData(tid, at, bytes); err != nil {
		return fmt.Errorf("write a filter of system calls: %w", err)
	}
	headAt := at - unsafe.Sizeof(head)
	if _, err := unix.PtracePokeData(tid, headAt, unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head))); err != nil {
		return fmt.Errorf("write a filter of system calls: %w", err)
	}
	errno, err := inject(tid, begin, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uint64(headAt))
	if err != nil {
		return fmt.Errorf("have a program filter its system calls: %w", err)
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// program stops before the calls in of, as far as their arguments can make them count.
func program(of map[uint64]string) []unix.SockFilter {
	const nr, arch, args = 0, 4, 16 // members of struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	unless := func(test uint16, k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jf: skip}
	}
	stop, goOn := ret(unix.SECCOMP_RET_TRACE), ret(unix.SECCOMP_RET_ALLOW)
	rules := []unix.SockFilter{load(arch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AUDIT_ARCH_X86_64, Jt: 1}, goOn, load(nr)}
	for call := range of {
		switch call {
		case unix.SYS_OPENAT:
			rules = append(rules, unless(unix.BPF_JEQ, uint32(call), 4), load(args+2*8), unless(unix.BPF_JSET, making, 1), stop, goOn)
		case unix.SYS_CLONE:
			rules = append(rules, unless(unix.BPF_JEQ, uint32(call), 4), load(args), unless(unix.BPF_JSET, unix.CLONE_VFORK, 1), stop, goOn)
		default:
			rules = append(rules, unless(unix.BPF_JEQ, uint32(call), 1), stop)
		}
	}
	return append(rules, goOn)
}

// inject has a program that stands between two instructions make a system call, and puts it back to where it was.
func inject(tid int, begin unix.PtraceRegs, nr, a, b, c uint64) (errno syscall.Errno, err error) {
	at := uintptr(begin.Rip)
	var was [8]byte
	if _, err := unix.PtracePeekText(tid, at, was[:]); err != nil {
		return 0, err
	}
	if _, err := unix.PtracePokeText(tid, at, []byte{0x0f, 0x05}); err != nil { // syscall
		return 0, err
	}
	r := begin
	r.Orig_rax, r.Rax, r.Rdi, r.Rsi, r.Rdx = ^uint64(0), nr, a, b, c
	if err := unix.PtraceSetRegs(tid, &r); err != nil {
		return 0, err
	}
	if err := unix.PtraceSingleStep(tid); err != nil {
		return 0, err
	}
	var st unix.WaitStatus
	if _, err := unix.Wait4(tid, &st, unix.WALL, nil); err != nil {
		return 0, err
	}
	if !st.Stopped() || st.StopSignal() != unix.SIGTRAP {
		return 0, fmt.Errorf("it did not stop after one instruction: %#x", uint32(st))
	}
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return 0, err
	}
	if _, err := unix.PtracePokeText(tid, at, was[:]); err != nil {
		return 0, err
	}
	return syscall.Errno(-r.Rax), unix.PtraceSetRegs(tid, &begin)
}
