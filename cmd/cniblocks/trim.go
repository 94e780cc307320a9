//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// trim gives back to the system the memory that was needed once: what the heap does not use, and the pages of the program's
// own file, most of which only the initialisation of its packages reads. Those that are still needed come back from the page
// cache as they are used.
func trim() {
	debug.FreeOSMemory()
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range filePages(maps, own) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
}

type mapping struct{ from, to uintptr }

// filePages are the mappings of a file that hold its pages and nothing else, of those in proc(5)'s smaps: they cannot be
// written, and never were, as a loader writes what it relocates, in memory or in swap. They can be dropped without a loss.
func filePages(smaps []byte, file string) (all []mapping) {
	var m mapping
	of, own := false, 0
	for line := range bytes.Lines(smaps) {
		var from, to, offset, inode uint64
		var mode, device, path string
		if n, _ := fmt.Sscanf(string(line), "%x-%x %s %x %s %d %s", &from, &to, &mode, &offset, &device, &inode, &path); n >= 6 {
			m, of, own = mapping{uintptr(from), uintptr(to)}, path == file && mode[1] == '-', 0
			continue
		}
		var kB int
		if n, _ := fmt.Sscanf(string(line), "Anonymous: %d kB", &kB); n == 1 {
			own = kB
		}
		if n, _ := fmt.Sscanf(string(line), "Swap: %d kB", &kB); n == 1 && of && own+kB == 0 { // it stands below
			all = append(all, m)
		}
	}
	return all
}
