//go:build linux

package gobuild

import (
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneAtATimeHoldsTheLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	var held, together, calls atomic.Int32
	for range 20 {
		wg.Go(func() {
			unlock, err := Lock(path)
			if err != nil {
				return
			}
			defer unlock()
			calls.Add(1)
			if held.Add(1) > 1 {
				together.Add(1)
			}
			time.Sleep(time.Millisecond)
			held.Add(-1)
		})
	}
	wg.Wait()
	require.EqualValues(t, 20, calls.Load())
	require.Zero(t, together.Load())
	_, err := Lock(filepath.Join(path, "below a file"))
	require.Error(t, err)
	_, err = Lock(filepath.Join(t.TempDir(), "missing", "lock"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTheGoCommandRunsOutsideOfThisModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := Go(dir, "env", "GOBIN", "GOMOD", "CGO_ENABLED")
	require.NoError(t, err)
	require.Equal(t, []string{dir, "/dev/null", "0"}, strings.Fields(string(out)))
	_, err = Go(dir, "no-such-command")
	require.ErrorContains(t, err, "go no-such-command")
}
