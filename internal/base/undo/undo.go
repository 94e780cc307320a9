// Package undo takes back the steps of a transaction that failed, newest first.
//
//	func add(ctx context.Context) (err error) {
//		var u undo.Stack
//		defer u.OnError(ctx, &err)
//		if err = create(ctx); err != nil {
//			return err
//		}
//		u.Push(remove) // after the step succeeded
//		return use(ctx)
//	}
package undo

import (
	"context"
	"errors"
	"time"
)

// Timeout bounds the whole of an undo; the deadline of the caller no longer counts then.
const Timeout = 20 * time.Second

// Stack holds what must be called if the transaction fails. The zero value is ready to use.
type Stack struct{ steps []func(context.Context) error }

// Push adds a step that takes back what was just done.
func (s *Stack) Push(step func(context.Context) error) { s.steps = append(s.steps, step) }

// OnError runs the steps if *err is set and joins their errors to it. It is to be deferred, once; a panic passes
// through after the steps ran, and one in a step keeps no other step from running. The context of the steps lives on after
// ctx was cancelled.
func (s *Stack) OnError(ctx context.Context, err *error) { s.After(ctx, err, recover()) }

// After is OnError for a function that is deferred itself, with what its call of recover returned.
func (s *Stack) After(ctx context.Context, err *error, p any) {
	if *err == nil && p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	s.run(ctx, err)
	if p != nil {
		panic(p)
	}
}

func (s *Stack) run(ctx context.Context, err *error) {
	for len(s.steps) > 0 {
		last := len(s.steps) - 1
		step := s.steps[last]
		s.steps = s.steps[:last]
		func() {
			defer func() {
				if p := recover(); p != nil {
					s.run(ctx, err)
					panic(p)
				}
			}()
			*err = errors.Join(*err, step(ctx))
		}()
	}
}

// Back takes back one step after err, as a Stack does, and joins the error of that to it.
func Back(ctx context.Context, err error, step func(context.Context) error) error {
	s := Stack{steps: []func(context.Context) error{step}}
	s.After(ctx, &err, nil)
	return err
}
