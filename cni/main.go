package cni

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/undo"
)

// Main is a plugin's main function: it reads the request from the environment and standard input, prints the result or the
// error to standard output, warnings to standard error, and exits. delegates are the other plugins that are linked in; it
// may be nil.
func Main(p Plugin, delegates Delegates) {
	os.Exit(Run(context.Background(), p, delegates, os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// Run is [Main] with everything passed in; it returns the exit status.
func Run(ctx context.Context, p Plugin, delegates Delegates, getenv func(string) string, in io.Reader, out, errs io.Writer) int {
	return run(ctx, p, "", nil, delegates, getenv, in, out, errs)
}

// run serves as p, which the program was called as by name; it refuses if that is an error.
func run(ctx context.Context, p Plugin, name string, misnamed error, delegates Delegates, getenv func(string) string, in io.Reader, out, errs io.Writer) int {
	out, errs = plain(out), plain(errs)
	r, err := NewRequest(getenv, in)
	if misnamed != nil {
		err = misnamed
	}
	var answer []byte
	version := Versions[len(Versions)-1]
	if r != nil && slices.Contains(Versions, r.Version) {
		version = r.Version
	}
	if err == nil {
		r.Delegates = delegates
		if name != "" && delegates[r.Type] == nil {
			r.Type = name
		}
		answer, err = serve(ctx, p, r)
		for _, w := range r.Warnings() {
			fmt.Fprintln(errs, "warning:", message(w))
		}
	}
	if err != nil {
		fmt.Fprintln(errs, message(err.Error()))
		_, _ = out.Write(encode(version, err))
		return 1
	}
	if _, err := out.Write(answer); err != nil {
		if r.Verb == ADD {
			err = unknown(ctx, p, r, fmt.Errorf("print the result: %w", err))
		}
		fmt.Fprintln(errs, err)
		return 1
	}
	return 0
}

// plain is a writer whose reader may be gone: that is an error like another one. Package os ends the process by SIGPIPE
// then, see package os/signal.
func plain(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && (f.Fd() == 1 || f.Fd() == 2) { // which makes it block
		return descriptor(f.Fd())
	}
	return w
}

type descriptor int

func (d descriptor) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := syscall.Write(int(d), b[n:])
		if err != nil && err != syscall.EINTR {
			return n, err
		}
		n += max(m, 0)
	}
	return n, nil
}

// unknown takes back what was added and cannot be told: an attachment that nobody knows of.
func unknown(ctx context.Context, p Plugin, r *Request, cause error) error {
	return undo.Back(ctx, cause, func(ctx context.Context) error {
		del, err := r.With(DEL, nil)
		if err == nil {
			err = p.Del(ctx, del)
		}
		return err
	})
}

func serve(ctx context.Context, p Plugin, r *Request) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &Error{Code: ErrInternal, Msg: fmt.Sprintf("this is a bug in the plugin: %v", p), Details: string(debug.Stack())}
		}
	}()
	switch r.Verb {
	case ADD:
		res, err := p.Add(ctx, r)
		if err != nil {
			return nil, err
		}
		if answer, err = res.Encode(r.Version); err != nil {
			return nil, unknown(ctx, p, r, err)
		}
		return answer, nil
	case DEL:
		return nil, p.Del(ctx, r)
	case CHECK:
		return nil, p.Check(ctx, r)
	case STATUS:
		return nil, status(p.Status(ctx, r), r)
	case GC:
		return nil, p.GC(ctx, r)
	}
	answer, err = lazyjson.Marshal(struct {
		Version   string   `json:"cniVersion"`
		Supported []string `json:"supportedVersions"`
	}{r.Version, Versions})
	return append(answer, '\n'), err
}

// status adds the warnings to what STATUS says, so that a person who asks why sees them.
func status(err error, r *Request) error {
	if err == nil || len(r.Warnings()) == 0 {
		return err
	}
	return &Error{Code: CodeOf(err), Msg: err.Error(), Details: fmt.Sprintf("warnings: %q", r.Warnings()), err: err}
}
