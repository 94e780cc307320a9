package cni

import (
	"context"

	"github.com/cniblocks/cniblocks/internal/base/undo"
)

// Chain is a plugin that stands behind a main plugin in a conflist and changes what that one made (specification, section
// 3, "Lifecycle & Ordering"): its deeds, nil where there is nothing to do. It sees to what the specification asks of
// every chained plugin. [Request.Prev] is there for Apply and Verify, which fail without it, and is ADD's result, with what
// Apply changed in it, in the version of the configuration.
type Chain struct {
	// Apply does it (ADD). If it fails Revoke is called.
	Apply func(context.Context, *Request) error
	// Verify fails if it is not as Apply left it (CHECK).
	Verify func(context.Context, *Request) error
	// Revoke takes it back (DEL). There may be no namespace, no prevResult, and nothing to take back: what is on the node
	// is found by its mark.
	Revoke func(context.Context, *Request) error
	// Retain takes back what no attachment in [Request.Valid] owns (GC).
	Retain func(context.Context, *Request) error
	// Ready fails if Apply could not succeed now (STATUS).
	Ready func(context.Context, *Request) error
}

var _ Plugin = Chain{}

// Add is Apply, on the result of the plugins before.
func (c Chain) Add(ctx context.Context, r *Request) (_ *Result, err error) {
	if err := r.NeedPrev(); err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.OnError(ctx, &err)
	u.Push(func(ctx context.Context) error { return do(ctx, c.Revoke, r) })
	return r.Prev, do(ctx, c.Apply, r)
}

// Del is Revoke.
func (c Chain) Del(ctx context.Context, r *Request) error { return do(ctx, c.Revoke, r) }

// Check is Verify.
func (c Chain) Check(ctx context.Context, r *Request) error {
	if err := r.NeedPrev(); err != nil {
		return err
	}
	return do(ctx, c.Verify, r)
}

// Status is Ready, with its error as [Unavailable] has it.
func (c Chain) Status(ctx context.Context, r *Request) error { return Unavailable(do(ctx, c.Ready, r)) }

// GC is Retain.
func (c Chain) GC(ctx context.Context, r *Request) error { return do(ctx, c.Retain, r) }

func do(ctx context.Context, deed func(context.Context, *Request) error, r *Request) error {
	if deed == nil {
		return nil
	}
	return deed(ctx, r)
}

// NeedPrev fails unless there is a prevResult.
func (r *Request) NeedPrev() error {
	if r.Prev != nil {
		return nil
	}
	if r.Verb == CHECK {
		return Errorf(ErrConfig, `netconf: key "prevResult" is missing; CHECK needs the result of the ADD`)
	}
	return Errorf(ErrConfig, `netconf: key "prevResult" is missing: %s is a chained plugin; state it in "plugins" of a conflist, after the plugin that makes the interface`, r.Type)
}
