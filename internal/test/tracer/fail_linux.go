//go:build !amd64

package tracer

import (
	"errors"
	"syscall"
)

func skip(int, syscall.Errno) { panic("tracer.Fail works on amd64 only") }

func filter(int, map[uint64]string) error { return errors.ErrUnsupported }
