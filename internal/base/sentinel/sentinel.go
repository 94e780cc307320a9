// Package sentinel makes errors that are a well-known one, such as [io/fs.ErrNotExist], and do not read like it: a route
// is no file.
package sentinel

import (
	"errors"
	"fmt"
)

// Errorf is an error with the text of [fmt.Errorf] that is, by [errors.Is], also the target.
func Errorf(target error, format string, a ...any) error {
	return &said{fmt.Errorf(format, a...), target}
}

type said struct{ err, target error }

func (e *said) Error() string { return e.err.Error() }

// Unwrap is what %w names.
func (e *said) Unwrap() error { return errors.Unwrap(e.err) }

func (e *said) Is(target error) bool { return target == e.target }
