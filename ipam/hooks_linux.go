package ipam

import "golang.org/x/sys/unix"

// hooks lets tests bring about what cannot be had on demand. A nil one does nothing.
type hooks struct {
	fault     fault
	left      int    // system calls that write before the fault
	oldKernel bool   // no O_TMPFILE
	coarse    bool   // the file system does not keep nanoseconds
	reads     int    // lease files looked at so far
	watch     func() // called before each system call that writes
}

type fault int

const (
	none fault = iota
	kill       // the process ends
	once       // one call fails
	full       // this and all later calls fail
)

// killed is what a panic of hooks says.
type killed struct{}

// step comes before every system call that writes.
func (h *hooks) step() error {
	if h != nil && h.watch != nil {
		h.watch()
	}
	switch {
	case h == nil || h.fault == none:
		return nil
	case h.left > 0:
		h.left--
		return nil
	case h.fault == kill:
		panic(killed{})
	case h.fault == once:
		h.fault = none
	}
	return unix.ENOSPC
}

func (h *hooks) read() {
	if h != nil {
		h.reads++
	}
}

func (h *hooks) noTmpfile() bool  { return h != nil && h.oldKernel }
func (h *hooks) coarseTime() bool { return h != nil && h.coarse }
