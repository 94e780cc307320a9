package undo_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/undo"
)

var errCause = errors.New("cause")

// transaction pushes the steps and ends with err, or with a panic.
func transaction(ctx context.Context, fail error, panicWith any, steps ...func(context.Context) error) (err error) {
	var u undo.Stack
	defer u.OnError(ctx, &err)
	for _, s := range steps {
		u.Push(s)
	}
	if panicWith != nil {
		panic(panicWith)
	}
	return fail
}

// noting returns n steps that note their number, and the notes.
func noting(n int) (steps []func(context.Context) error, notes *[]int) {
	notes = &[]int{}
	for i := range n {
		steps = append(steps, func(context.Context) error { *notes = append(*notes, i); return nil })
	}
	return steps, notes
}

func TestStepsAreTakenBackNewestFirst(t *testing.T) {
	t.Parallel()
	steps, notes := noting(3)
	require.ErrorIs(t, transaction(t.Context(), errCause, nil, steps...), errCause)
	require.Equal(t, []int{2, 1, 0}, *notes)
}

func TestNothingIsTakenBackAfterSuccess(t *testing.T) {
	t.Parallel()
	steps, notes := noting(3)
	require.NoError(t, transaction(t.Context(), nil, nil, steps...))
	require.Empty(t, *notes)
}

func TestErrorsOfStepsAreJoinedAndKeepNoStepFromRunning(t *testing.T) {
	t.Parallel()
	steps, notes := noting(2)
	one, two := errors.New("one"), errors.New("two")
	err := transaction(t.Context(), errCause, nil, steps[0], func(context.Context) error { return one },
		func(context.Context) error { return two }, steps[1])
	for _, want := range []error{errCause, one, two} {
		require.ErrorIs(t, err, want)
	}
	require.Equal(t, "cause\ntwo\none", err.Error())
	require.Equal(t, []int{1, 0}, *notes)
}

func TestTheContextOfAStepLivesOnWithItsValuesAndADeadline(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	cancel()
	err := transaction(ctx, ctx.Err(), nil, func(ctx context.Context) error {
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(undo.Timeout), deadline, undo.Timeout/2)
		require.Equal(t, "value", ctx.Value(key{}))
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, context.Canceled.Error(), err.Error(), "the step saw no cancelled context")
}

func TestAPanicPassesAfterTheStepsRan(t *testing.T) {
	t.Parallel()
	steps, notes := noting(2)
	require.PanicsWithValue(t, "boom", func() { _ = transaction(t.Context(), nil, "boom", steps...) })
	require.Equal(t, []int{1, 0}, *notes)
}

func TestAPanicInAStepKeepsNoOtherStepFromRunning(t *testing.T) {
	t.Parallel()
	steps, notes := noting(2)
	bad := func(context.Context) error { panic("bad step") }
	require.PanicsWithValue(t, "bad step", func() { _ = transaction(t.Context(), errCause, nil, steps[0], bad, steps[1]) })
	require.Equal(t, []int{1, 0}, *notes)
}

func TestOneStepIsTakenBackWithADeadlineAlsoAfterTheContextIsOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := undo.Back(ctx, errCause, func(ctx context.Context) error {
		require.NoError(t, ctx.Err())
		_, ok := ctx.Deadline()
		require.True(t, ok)
		return errors.New("step")
	})
	require.ErrorIs(t, err, errCause)
	require.ErrorContains(t, err, "step")
	require.Equal(t, errCause.Error(), undo.Back(ctx, errCause, func(context.Context) error { return nil }).Error())
}

func ExampleStack() {
	add := func(ctx context.Context, full bool) (err error) {
		var u undo.Stack
		defer u.OnError(ctx, &err)
		fmt.Println("create the link")
		u.Push(func(context.Context) error { fmt.Println("remove the link"); return nil })
		if full {
			return errors.New("no address left")
		}
		fmt.Println("add the address")
		return nil
	}
	fmt.Println(add(context.Background(), false))
	fmt.Println(add(context.Background(), true))
	// Output:
	// create the link
	// add the address
	// <nil>
	// create the link
	// remove the link
	// no address left
}
