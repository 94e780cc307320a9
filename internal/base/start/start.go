// Package start is how the program of the plugins begins: what a start of Go costs is half of a plugin's time, and some of
// it can be had for less. A program that imports it, and that the linker is told to enter at entry, starts in four fifths of
// the time.
//
// It imports the runtime only, so that it is initialised before what imports more.
package start

import "runtime"

// Processors is the value of GOMAXPROCS that entry gives a program whose environment has none. It is a 1 that nobody else
// writes in this way, for the program to know that it is not the user's, and to take it out of its children's environment.
//
// A plugin does one thing after the other, mostly in the kernel. More processors only start threads that look for work.
const Processors = "01"

// Spread makes the calling thread as the program was when it was started, see also [Hasten]: it, and what it starts from now
// on, may run on all processors that the program was given. It does nothing in a program that was not entered at entry.
func Spread() { spread() }

// Child calls begin, which starts a program of somebody else, on a thread that [Spread] has made as it was.
func Child(begin func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	Spread()
	return begin()
}

// Hasten makes the calling thread as punctual as the program was when it was started, for one that is about to wait for less
// than a millisecond. The thread of main is from the beginning. It does nothing in a program that was not entered at entry.
func Hasten() { hasten() }

// largest is more than the stack that any verb of a plugin comes to need.
const largest = 24 << 10

// Grow makes the stack of the calling goroutine as large as it will become, for main, while there is next to nothing on it.
// Else it is moved four times on the way, each with a lookup of every frame, and each size of stack brings pages of its own.
func Grow() { grow(0) }

// The frame is made room for at the call, whatever n is.
//
//go:noinline
func grow(n int) byte {
	if n == 0 {
		return 0
	}
	var frame [largest]byte
	frame[n] = 1
	return frame[n/2]
}
