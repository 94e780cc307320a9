package ipam

// hooks lets tests bring about what cannot be had on demand. A nil one does nothing.
type hooks struct {
	kill      bool // panic before the system call that writes after `left` others
	left      int
	oldKernel bool // no O_TMPFILE
	coarse    bool // the file system does not keep nanoseconds
	reads     int  // lease files looked at so far
}

// killed is what a panic of hooks says.
type killed struct{}

func (h *hooks) step() {
	if h == nil || !h.kill {
		return
	}
	if h.left == 0 {
		panic(killed{})
	}
	h.left--
}

func (h *hooks) read() {
	if h != nil {
		h.reads++
	}
}

func (h *hooks) noTmpfile() bool  { return h != nil && h.oldKernel }
func (h *hooks) coarseTime() bool { return h != nil && h.coarse }
