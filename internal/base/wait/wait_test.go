//go:build linux

package wait

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATryIsMadeAgainUntilItIsDone(t *testing.T) {
	t.Parallel()
	n := 0
	require.NoError(t, Until(t.Context(), 0, time.Millisecond, func() (bool, error) { n++; return n == 5, nil }))
	require.Equal(t, 5, n)
}

func TestATryThatFailsIsTheLast(t *testing.T) {
	t.Parallel()
	n, failed := 0, errors.New("failed")
	require.Equal(t, failed, Until(t.Context(), 0, time.Millisecond, func() (bool, error) { n++; return false, failed }))
	require.Equal(t, 1, n)
}

func TestTheEndOfTheContextIsTheErrorAfterOneTryAtLeast(t *testing.T) {
	t.Parallel()
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	tried := false
	require.Equal(t, why, Until(ctx, 0, time.Hour, func() (bool, error) { tried = true; return false, nil }))
	require.True(t, tried)
}

func TestPatienceHasAnEnd(t *testing.T) {
	t.Parallel()
	n := 0
	require.Equal(t, context.DeadlineExceeded, Until(t.Context(), 100*time.Millisecond, time.Millisecond, func() (bool, error) { n++; return false, nil }))
	require.Greater(t, n, 1)
}

func TestALockIsHadWhenItsHolderLetsGo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	require.NoError(t, Lock(t.Context(), int(first.Fd()), 0, time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := Lock(ctx, int(second.Fd()), 0, time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "another process holds it")
	got := make(chan error)
	go func() { got <- Lock(t.Context(), int(second.Fd()), 0, time.Millisecond) }()
	require.NoError(t, first.Close())
	require.NoError(t, <-got)
}

func TestWhatIsNoFileCannotBeLocked(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, Lock(t.Context(), -1, 0, time.Millisecond), syscall.EBADF)
}
