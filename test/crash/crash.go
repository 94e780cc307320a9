//go:build linux

// Package crash kills a program before its k-th system call that changes something, so that tests can look at what a kill
// at every instruction leaves.
package crash

import (
	"os/exec"

	"github.com/cniblocks/cniblocks/internal/tracer"
)

// Run starts the command and kills it before its k-th call that changes something, counted from 1. It reports whether it
// was killed: one that makes fewer such calls runs to its end, whose failure is the error. Other programs that it started
// live on. The command's Stdout and Stderr must be files or nil.
func Run(cmd *exec.Cmd, k int) (killed bool, err error) {
	return tracer.Run(cmd, func(n int) bool { return n < k })
}
