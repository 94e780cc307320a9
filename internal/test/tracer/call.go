//go:build linux

package tracer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call that changes something outside of the program.
type Call struct {
	N    int // how many there were, this one included
	main int
	nr   uint64
	args [6]uint64
}

// changes are the system calls that change something outside of the process: netlink, files, other programs.
var changes = map[uint64]string{
	unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_OPENAT: "openat", unix.SYS_LINKAT: "linkat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat",
	unix.SYS_RENAMEAT2: "renameat2", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UTIMENSAT: "utimensat",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FCHMOD: "fchmod", unix.SYS_FLOCK: "flock", unix.SYS_SETNS: "setns",
	unix.SYS_CLONE: "clone", unix.SYS_EXECVE: "execve",
}

// answers are the system calls that receive from a socket.
var answers = map[uint64]string{unix.SYS_RECVFROM: "recvfrom", unix.SYS_RECVMSG: "recvmsg"}

// Of openat(2) only those count that may make a file, of clone(2) those that start a program, of write(2) those that do
// not wake a thread of the program itself.
const making = unix.O_CREAT | unix.O_TRUNC | unix.O_TMPFILE&^unix.O_DIRECTORY

// Name is that of the system call, as in section 2 of the manual.
func (c Call) Name() string { return changes[c.nr] + answers[c.nr] }

// String names the call and what it is about, as far as that is known.
func (c Call) String() string {
	about := ""
	switch c.nr {
	case unix.SYS_OPENAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UTIMENSAT:
		about = c.text(c.args[1])
	case unix.SYS_LINKAT:
		about = c.text(c.args[3])
	case unix.SYS_CLONE, unix.SYS_SYMLINKAT, unix.SYS_EXECVE:
	default:
		about = filepath.Base(c.file())
	}
	return strings.TrimSpace(c.Name() + " " + about)
}

// file is what the descriptor in the first argument stands for.
func (c Call) file() string {
	to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.main, int32(c.args[0])))
	return to
}

// text reads a string in the memory of the program.
func (c Call) text(at uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.main))
	if err != nil {
		return ""
	}
	defer mem.Close()
	var b [256]byte
	n, _ := mem.ReadAt(b[:], int64(at))
	s, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(s)
}

// callOf is the call that the thread is about to make, if it is one of those.
func callOf(main, tid int, of map[uint64]string) (Call, bool) {
	var info struct {
		op       uint8
		_        [3]uint8
		arch     uint32
		ip, sp   uint64
		nr       uint64
		args     [6]uint64
		reserved [4]uint64 // what a filter returned, for one
	}
	const getSyscallInfo, entry, filtered = 0x420e, 1, 3
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != entry && info.op != filtered || of[info.nr] == "" {
		return Call{}, false
	}
	c := Call{main: main, nr: info.nr, args: info.args}
	switch info.nr {
	case unix.SYS_OPENAT:
		return c, info.args[2]&making != 0
	case unix.SYS_CLONE:
		return c, info.args[0]&unix.CLONE_VFORK != 0
	case unix.SYS_WRITE:
		return c, c.file() != "anon_inode:[eventfd]"
	}
	return c, true
}

// processOf is the process that a thread belongs to.
func processOf(tid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := bytes.Cut(b, []byte("\nTgid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return n
}
