//go:build linux

package agent

import "context"

func (r *runner) clear(context.Context) error { return nil }
