//go:build linux

package tracer

import "os/exec"

// TraceEveryCall is [Trace] without the filter, as where there is none.
func TraceEveryCall(cmd *exec.Cmd, before func(Call) Verdict) (Outcome, error) {
	return run(cmd, tracer{of: changes, before: before, every: true})
}
