package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// Code is an error code of the CNI specification, section "Error".
type Code uint

// The codes that the specification reserves.
const (
	ErrVersion          Code = 1  // incompatible CNI version
	ErrUnsupportedField Code = 2  // the message names key and value
	ErrUnknownContainer Code = 3  // no such container: the runtime need not clean up
	ErrEnvironment      Code = 4  // a CNI_ variable is missing or wrong
	ErrIO               Code = 5  // reading, writing or the kernel failed
	ErrDecode           Code = 6  // the configuration is no JSON
	ErrConfig           Code = 7  // the configuration is wrong
	ErrTryAgain         Code = 11 // transient: try again later
	ErrNotAvailable     Code = 50 // STATUS: an ADD would fail now
	ErrLimited          Code = 51 // STATUS: an ADD would fail, and containers that are there are limited
	ErrInternal         Code = 999
)

// Error is a failure with its code. The message says what was done to what, and what to do.
type Error struct {
	Code    Code
	Msg     string
	Details string // may be empty
	err     error
}

// Errorf makes an error with a code; %w wraps as in [fmt.Errorf].
func Errorf(code Code, format string, a ...any) error {
	err := fmt.Errorf(format, a...)
	return &Error{Code: code, Msg: err.Error(), err: err}
}

func (e *Error) Error() string {
	if e.Details != "" {
		return e.Msg + "; " + e.Details
	}
	return e.Msg
}

func (e *Error) Unwrap() error { return e.err }

// CodeOf is the code that an error stands for: its own if an [Error] is in its chain, [ErrTryAgain] if time ran out, else
// [ErrIO]: the kernel, a file or another program refused something. [ErrInternal] is for panics.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ErrTryAgain
	}
	return ErrIO
}

// Unavailable gives an error the code by which STATUS says that an ADD would fail now, unless it has that of a wrong
// request. Nil stays nil.
func Unavailable(err error) error {
	if err == nil {
		return nil
	}
	switch CodeOf(err) {
	case ErrVersion, ErrUnsupportedField, ErrEnvironment, ErrDecode, ErrConfig, ErrNotAvailable, ErrLimited:
		return err
	}
	return Errorf(ErrNotAvailable, "%w", err)
}

// maxMessage bounds what is said of an error, which may repeat a value of the configuration.
const maxMessage = 8 << 10

func cut(s string) string {
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "") + " ..."
	}
	return s
}

// message is what an error says, in one line and each of its sentences once: joined errors may have a cause in common.
func message(text string) string {
	var said []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, line) }) {
			said = append(said, line)
		}
	}
	return cut(strings.Join(said, "; "))
}

// encode is the error as the specification has it printed.
func encode(version string, err error) []byte {
	for list, ok := err.(interface{ Unwrap() []error }); ok && len(list.Unwrap()) == 1; list, ok = err.(interface{ Unwrap() []error }) {
		err = list.Unwrap()[0]
	}
	msg, details := err.Error(), ""
	if e, ok := err.(*Error); ok { //nolint:errorlint // what wraps one has a message of its own
		msg, details = e.Msg, e.Details
	}
	b, _ := lazyjson.Marshal(struct {
		Version string `json:"cniVersion"`
		Code    Code   `json:"code"`
		Msg     string `json:"msg"`
		Details string `json:"details,omitempty"`
	}{version, CodeOf(err), message(msg), cut(details)})
	return append(b, '\n')
}
