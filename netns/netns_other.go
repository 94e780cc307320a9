//go:build !linux

package netns

import "errors"

// ErrNotNamespace says that a path exists and is not a network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// NS is an open network namespace; only Linux has them.
type NS struct{}

// Open fails with [errors.ErrUnsupported] on this system.
func Open(path string) (*NS, error) { return nil, errors.ErrUnsupported }
