package cni

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/start"
)

const (
	maxOutput   = 1 << 20         // what an executed plugin may print
	execTimeout = 2 * time.Minute // where the caller set no deadline
)

// Exec is a plugin that runs as a child process (specification, section 2). Its output is bounded, and it is killed when
// the context ends, or after two minutes.
func Exec(path string) Plugin { return executable(path) }

type executable string

func (x executable) Add(ctx context.Context, r *Request) (*Result, error) {
	out, err := x.run(ctx, r, ADD)
	if err != nil {
		return nil, err
	}
	res, err := parseOf(r.Version, out)
	if err != nil {
		return nil, Errorf(CodeOf(err), "plugin %s answered ADD with no valid result: %w", x, err)
	}
	return res, nil
}

func (x executable) Del(ctx context.Context, r *Request) error {
	_, err := x.run(ctx, r, DEL)
	return err
}

func (x executable) Check(ctx context.Context, r *Request) error {
	if !atLeast(r.Version, "0.4.0") {
		return nil
	}
	_, err := x.run(ctx, r, CHECK)
	return err
}

func (x executable) Status(ctx context.Context, r *Request) error {
	if !atLeast(r.Version, "1.1.0") {
		return nil
	}
	_, err := x.run(ctx, r, STATUS)
	return unknownVerb(err)
}

func (x executable) GC(ctx context.Context, r *Request) error {
	if !atLeast(r.Version, "1.1.0") {
		return nil
	}
	_, err := x.run(ctx, r, GC)
	return unknownVerb(err)
}

// unknownVerb passes over a plugin that is older than the verb: it says that CNI_COMMAND is wrong.
func unknownVerb(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == ErrEnvironment {
		return nil
	}
	return err
}

func (x executable) run(ctx context.Context, r *Request, verb Verb) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(x))
	cmd.Env = x.environment(r, verb)
	cmd.Stdin = bytes.NewReader(r.Config)
	out, errs := bounded{full: cancel}, bounded{}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second // a grandchild that keeps the pipes open does not keep us
	err := start.Child(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	name := filepath.Base(string(x))
	switch {
	case out.over:
		return nil, Errorf(ErrIO, "plugin %s printed more than %d bytes and was killed", name, maxOutput)
	case ctx.Err() != nil:
		return nil, Errorf(ErrTryAgain, "plugin %s did not finish its %s in time: %w", name, verb, ctx.Err())
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return out.kept.Bytes(), nil
	}
	var e struct {
		Code         Code
		Msg, Details string
	}
	if lazyjson.Unmarshal(out.kept.Bytes(), &e) == nil && e.Msg != "" {
		if e.Code == 0 {
			e.Code = ErrIO
		}
		return nil, &Error{Code: e.Code, Msg: name + ": " + e.Msg, Details: e.Details, err: err}
	}
	said := strings.TrimSpace(out.kept.String() + " " + errs.kept.String())
	if said == "" {
		said = "it printed nothing"
	}
	return nil, Errorf(ErrIO, "plugin %s failed its %s (%w): %s", name, verb, err, clipText(said))
}

func (x executable) environment(r *Request, verb Verb) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CNI_") {
			env = append(env, kv)
		}
	}
	if r.NodeNetNS {
		env = append(env, "CNI_NETNS_OVERRIDE=1")
	}
	return append(env, "CNI_COMMAND="+string(verb), "CNI_CONTAINERID="+r.ContainerID, "CNI_NETNS="+r.NetNS,
		"CNI_IFNAME="+r.IfName, "CNI_ARGS="+r.Args, "CNI_PATH="+strings.Join(r.Path, string(filepath.ListSeparator)))
}

func clipText(s string) string {
	if len(s) > 2000 {
		return s[:2000] + " ..."
	}
	return s
}

// bounded keeps the first maxOutput bytes and drops the rest. It is a writer and nothing more: io.Copy would hand all the
// output to the ReadFrom of an embedded buffer.
type bounded struct {
	kept bytes.Buffer
	over bool
	full func() // called when something is dropped; may be nil
}

func (b *bounded) Write(p []byte) (int, error) {
	room := min(len(p), maxOutput-b.kept.Len())
	b.kept.Write(p[:room])
	if room < len(p) {
		b.over = true
		if b.full != nil {
			b.full()
		}
	}
	return len(p), nil
}
