//go:build linux

package start

import "unsafe"

// entry is where the kernel may enter a program instead of the runtime's own place, by the linker's flag
//
//	-ldflags -E=github.com/cniblocks/cniblocks/internal/base/start.entry
//
// In a child of package reap it does what reap.Child does and exits, before there is any Go: 0.05 ms of processor time
// instead of the 1.5 of a program that starts. In all else it goes on to the runtime, for which it makes this so:
//
//   - [Processors] is in the environment.
//   - Nothing can be opened until this package is initialised. The runtime would open the list of the mounts and the limits
//     of the control group, in search of a number of processors, which it has been told, and the size of large pages, which
//     a program of a few milliseconds does not need. On a node with 3000 mounts that is a seventh of the start. It goes on
//     without where it finds none.
//   - All threads are on the processor where the program is. Those of the runtime wait for each other a few times; another
//     processor would have to be woken each time, in a virtual machine by the host. See [Spread].
//   - The runtime's own threads nap for longer, by [patience]: the one that looks after the others does so fifty times in
//     the life of a plugin, for 0.02 ms, and next to never finds anything. See [Hasten].
//
// Without the flag nothing changes but the time.
func entry()

// patience is the timer slack of the threads that the runtime starts before this package is initialised, in nanoseconds
// (PR_SET_TIMERSLACK(2const)). So much later another goroutine goes on where one is in a system call that takes long.
const patience = 500_000

// What was before entry, the zero value where it was not changed.
var (
	limit [2]uint64         // soft and hard, of open files
	slack uintptr           // of the timers of this thread, nanoseconds
	cpus  [most / 64]uint64 // that the program may run on, a bit for each
)

// most is how many processors a machine may have that this works on; on others, threads are not kept together.
const most = 1024

const (
	sysPrctl            = 157
	sysSchedSetaffinity = 203
	sysPrlimit64        = 302

	rlimitNofile    = 7
	prSetTimerslack = 29
)

func init() {
	if limit != ([2]uint64{}) {
		call(sysPrlimit64, 0, rlimitNofile, uintptr(unsafe.Pointer(&limit)), 0)
	}
	hasten()
}

func hasten() {
	if slack != 0 {
		call(sysPrctl, prSetTimerslack, slack, 0, 0)
	}
}

func spread() {
	hasten()
	if cpus != ([most / 64]uint64{}) {
		call(sysSchedSetaffinity, 0, unsafe.Sizeof(cpus), uintptr(unsafe.Pointer(&cpus)), 0)
	}
}

// call makes a system call of which the runtime learns nothing, for one that does not wait. What it points to is in a
// variable of the package, which does not move.
func call(number, a, b, c, d uintptr) (r int)

var _ = entry
